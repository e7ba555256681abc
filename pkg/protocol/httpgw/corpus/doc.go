// Package corpus is a collection of raw HTTP/1.1 requests, each with what a
// strict gateway must make of it: the statuses it answers, whether it keeps the
// connection, and what, if anything, arrives at the backend.
//
// The cases are the text files below cases, made to be read. Other programs may
// run them: nothing in them is about this gateway but the routes they use, which
// [Routes] lists.
//
//	== A header line folded onto the next one is refused
//	RFC 9112 section 5.2; a proxy that unfolds and a server that does not disagree.
//	> GET /api/a HTTP/1.1
//	> Host: $host
//	> X-One: a
//	>  b
//	>
//	< 400, closed
//
// A case begins with "==" and its name, a sentence; the lines up to the first
// mark say where it comes from. Then, each with its mark:
//
//	>   a line sent, with CRLF put at its end
//	>|  bytes sent as they are, with nothing put at their end
//	^   half-close: the sending side of the connection is closed here
//	<   an answer: its status and, of the last one, whether the connection is
//	    then kept or closed
//	@   a request that arrives at the backend: method and target, then its
//	    fields, of which the gateway's own and those of framing are left out
//	@=  its body
//
// In sent lines and bodies \r \n \t \\ and \xHH are bytes, ${text*n} is text n
// times, $host and $port are the listener's, and $HOST is $host in upper case. A case without @ says that
// nothing arrives. Whatever a case writes where a device claims an identity has
// the word "forged" in it, which therefore must never arrive.
package corpus
