// Package breakglass keeps emergency grants: for some minutes, named devices may do
// what the policy set says an emergency allows, because two operators have said so.
//
// The life of a [Grant] is pending, active, ended, reviewed. Opening, approving and
// reviewing are [Statement]s that operators sign with the keys of their certificates,
// each bound to this one grant and to its purpose; who they are, and that they may,
// is package admin's to find out. What a grant is at a moment follows from what was
// said and from the time alone ([Grant.State]), so that no end can be missed.
//
// The [Book] holds all grants. A change is durable before it is visible (invariant
// 5). Asking whether a grant covers a transaction ([Book.For]) costs one atomic load
// while there is none. A grant never covers a device that is not in service: the edge
// refuses those before it asks, and so does the Book.
//
// All methods are safe for concurrent use. Grants that are handed out are shared and
// must not be changed.
package breakglass
