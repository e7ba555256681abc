// Package agent is the companion, anteroom-agent: a small program on a small box
// in front of a device that cannot speak TLS, or is too old to be trusted with a
// key. The box has the device's identity at the gateway, and the device has a
// cable to the box.
//
// It is made from parts that know nothing of each other: settings is its
// configuration, identity its key and certificate and how they are renewed, relay
// the connections it carries, store and queue the messages it keeps while the
// gateway is away, of which mllp and mqtt are the kinds. This package puts them
// together and is the command line. It shares the gateway's grammar of HTTP/1.1 and its configuration's
// decoder and nothing else, so that the program stays small:
// TestTheAgentIsSmall holds it to that.
package agent
