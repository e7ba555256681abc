package relay

import (
	"encoding/binary"
	"io"
	"net"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

const (
	// sorryTime bounds how long a device that can not be served is listened to.
	sorryTime = 5 * time.Second
	// sorryBytes is how much of what it sends is read and thrown away.
	sorryBytes = 256 << 10
)

// unavailable is what a device hears of a gateway that is away.
const unavailable = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: 81\r\n" +
	"Retry-After: 10\r\nConnection: close\r\n\r\n" +
	`{"title":"the gateway can not be reached","status":503,"type":"about:blank"}    ` + "\n"

// rejectTransient is A-ASSOCIATE-RJ (PS3.8 §9.3.4): rejected for the time being,
// by the service provider for its presentation, because of temporary congestion.
var rejectTransient = []byte{3, 0, 0, 0, 0, 4, 0, 2, 3, 1}

// heardHead reads until a request's head has ended.
func heardHead(device net.Conn) bool {
	buf := make([]byte, 0, maxHead)
	for {
		seen := len(buf)
		n, err := device.Read(buf[seen:cap(buf)])
		buf = buf[:seen+n]
		end, wrong := http1.HeadEnd(buf, seen)
		switch {
		case wrong != nil:
			return false
		case end > 0:
			return true
		case err != nil || len(buf) == cap(buf):
			return false
		}
	}
}

// heardAssociate reads an A-ASSOCIATE-RQ (PS3.8 §9.3.2).
func heardAssociate(device net.Conn) bool {
	var head [6]byte
	if _, err := io.ReadFull(device, head[:]); err != nil || head[0] != 1 {
		return false
	}
	n := int64(binary.BigEndian.Uint32(head[2:]))
	if n > sorryBytes {
		return false
	}
	_, err := io.CopyN(io.Discard, device, n)
	return err == nil
}
