package mqtt

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A device is a connection of the device's. It is written to by who serves it and by
// its way back.
type device struct {
	net.Conn
	connect
	taken chan struct{} // closed when the same client has come again
	ended atomic.Bool   // by the agent, not by the device

	mu   sync.Mutex
	torn bool // half a packet was written
}

var errTorn = errors.New("half a packet was written to the device")

func (d *device) send(packet []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.torn {
		return errTorn
	}
	_ = d.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, err := d.Write(packet)
	d.torn = err != nil && n > 0
	return err
}

// carry writes a packet of which the body is still to be read: it may be longer
// than there is memory for.
func (d *device) carry(head *packet, n int, r *bufio.Reader) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.torn {
		return errTorn
	}
	d.torn = true // until it is whole
	part := encodeHead(head.kind, head.flags, n, min(n, bufferSize))
	for {
		used := len(part)
		part = part[:min(cap(part), used+n)]
		if _, err := io.ReadFull(r, part[used:]); err != nil {
			return whole(err)
		}
		n -= len(part) - used
		_ = d.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := d.Write(part); err != nil {
			return err
		}
		if n == 0 {
			d.torn = false
			return nil
		}
		part = part[:0]
	}
}

// end ends the connection, in version 5 with a word why (§3.14.2.1).
func (d *device) end(reason byte) {
	if d.level == level5 {
		_ = d.send(encode(typeDisconnect, 0, []byte{reason}))
	}
	d.ended.Store(true)
	_ = d.Close()
}

// take has the same client's next connection take this one's place, and waits for
// nothing: who serves this one says goodbye, and if its network is gone, so that not
// even that can be written, it ends without.
func (d *device) take() {
	close(d.taken)
	if c, ok := d.Conn.(interface{ CloseRead() error }); ok {
		_ = c.CloseRead() // whoever serves it reads
	}
	time.AfterFunc(takenWithin, d.drop)
}

// drop ends the connection without a word, as a network does that is gone: every
// client connects again then. Of those that are told that the server shuts down
// (DISCONNECT, 0x8b) some never do, mosquitto's among them.
func (d *device) drop() {
	d.ended.Store(true)
	_ = d.Close()
}

// The reasons that a device of version 5 hears.
const (
	reasonNotAuthorized  = 0x87
	reasonSilent         = 0x8d
	reasonTaken          = 0x8e
	reasonProtocol       = 0x82
	reasonImplementation = 0x83
	reasonAlias          = 0x94
	reasonSize           = 0x95
	reasonQuota          = 0x97
)
