// Package mqtt stores what a device publishes by MQTT 3.1.1 while the gateway is
// away, and publishes it in order.
//
// The agent is the device's server: it takes the connection, and acknowledges a
// message of quality 1 or 2 when it is on disk. To the gateway it is a client of
// its own, by the device's certificate and with the device's id, whose session is
// kept there; what the device says in CONNECT of who it is counts for nothing, as
// it would at the gateway. One message is under way at a time, by the quality that
// the device chose: 1 is sent until it is acknowledged, 2 is delivered exactly once,
// because its packet identifier is that of its place in the store and the moment
// at which it is released (PUBREC, [MQTT-4.3.3]) is on disk too. Messages of
// quality 0 are passed on if the gateway is there and dropped if it is not; nobody
// is promised more.
//
// A device that sends a message again says so (DUP); it is found in the store by
// its identifier and its content.
//
// Nothing is carried towards the device. Subscriptions are refused, truthfully, and
// a device that wants more is carried as bytes, without a store.
package mqtt
