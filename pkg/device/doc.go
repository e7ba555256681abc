// Package device is the registry: what is known of every device, and the one
// source of its status.
//
// Records rest in a store and are served from memory (go-memdb). A change is
// durable first, then visible, then told to subscribers, all before the call
// that made it returns; so when a command that revokes a device has returned,
// no session decides under the old record any more, and no power cut brings the
// device back (invariants 3 and 5).
//
// Records handed out are shared and must not be changed. Reading by id takes no
// lock. Records that are read from the store share what many of them say.
//
// A registry can be used while it is still being read (Options.Background): single
// devices are looked up in the store meanwhile; changes, and whatever is asked of
// all devices, wait. If it turns out to be unreadable, nothing changes in it.
package device
