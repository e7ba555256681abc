// Package mllp stores a device's HL7 version 2 messages while the gateway is away,
// and delivers them in order.
//
// What a device hears is never more than is true. In enhanced mode (MSH-15) there
// is a word for it: CA, the message is in safe storage, and it is said when the
// message is on disk and not before. In original mode there is one answer, the
// receiver's own; a device in it waits for that, and hears AE if it does not come,
// after which the message is not delivered by the agent. A site that has devices
// which can not wait may have them told AA for what is on disk, and says so in the
// configuration.
//
// Messages go to the gateway one after the other, the next when the one before has
// its answer. One that was sent and has none, because the connection or the agent
// died, is sent again, byte for byte the same: HL7 has no other way (chapter 2,
// MSH-10), and a receiver tells by its control id that it has it already. The
// other way round, a message that a device sends again is not stored twice. A
// message that the receiver rejects is set aside in a file of its own, because the
// device was told that it arrived; one that it answers with an error is tried
// again some times first.
//
// Answers to a device's messages that come later, in enhanced mode, are passed to
// the device if it is connected.
package mllp
