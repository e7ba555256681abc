// Package upstream is the backends: the clinical and cloud systems that allowed
// transactions go to.
//
// A [Backend] has addresses in order of preference. It keeps connections to
// them, knows which are healthy, from checks and from use, and goes to the next
// when one fails. A request is sent a second time only if it is idempotent and
// can be sent again, or if nothing of it had been sent; an order for a drug is
// never given twice because a connection broke.
//
// Backends are spoken to over TLS and must prove the name and the CA they are
// configured with. Nothing falls back: a CA file that can not be read is an
// error, the system's roots are used only where the configuration says so, and
// plain HTTP only where it says insecure.
//
// A Backend is safe for concurrent use. [Backend.Close] stops its checks and
// waits for them.
package upstream
