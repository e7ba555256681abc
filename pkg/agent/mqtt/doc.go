// Package mqtt stores what a device publishes by MQTT 3.1.1 or 5 while the gateway is
// away, publishes it in order, and carries what the device subscribes to.
//
// The agent is the device's server: it takes the connection, and acknowledges a
// message of quality 1 or 2 when it is on disk. To the gateway it is a client of
// its own, by the device's certificate and with the device's id, whose session is
// kept there; what the device says in CONNECT of who it is counts for nothing, as
// it would at the gateway. One message is under way at a time, in the version and by
// the quality that the device chose: 1 is sent until it is acknowledged, 2 is
// delivered exactly once, because its packet identifier is that of its place in the
// store and the moment at which it is released (PUBREC, [MQTT-4.3.3]) is on disk
// too. Messages of quality 0 are passed on if the gateway is there and dropped if it
// is not; nobody is promised more.
//
// A device that sends a message again says so (DUP); it is found in the store by
// its identifier and its content.
//
// What a device subscribes to goes by a connection of its own (back.go), on which
// nothing is published: SUBSCRIBE and what follows from it are carried as they are,
// and the gateway answers. While the gateway is away the answer waits; when it goes,
// the device's connection ends, so that the device subscribes again. The agent
// keeps no subscription and no message for the device: who wants that kept (clean
// session 0, or a session that does not expire at once) has it at the gateway, and
// hears in CONNACK whether there is a session, if the gateway is there to say so.
package mqtt
