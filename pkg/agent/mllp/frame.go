package mllp

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/anteroom-iomt/anteroom/pkg/agent/store"
)

// The characters of a block (HL7 MLLP release 1): what stands between them is the
// message.
const (
	startBlock = 0x0b
	endBlock   = 0x1c
	cr         = '\r'
)

var errFraming = errors.New("what was sent is no block of MLLP")

// readFrame reads a block of at most most bytes, for which room is asked as it
// grows. io.EOF is an end between two
// blocks. Line ends between blocks are passed over, as some senders write them;
// anything else there, and a block within a block, is an error.
func readFrame(r *bufio.Reader, most int, room *store.Room) ([]byte, error) {
	for {
		switch b, err := r.ReadByte(); {
		case err != nil:
			return nil, err
		case b == startBlock:
			return readBody(r, most, room)
		case b != '\r' && b != '\n':
			return nil, errFraming
		}
	}
}

func readBody(r *bufio.Reader, most int, room *store.Room) ([]byte, error) {
	var body []byte
	for {
		part, err := r.ReadSlice(endBlock)
		if len(body)+len(part) > most+1 {
			return nil, fmt.Errorf("a message has more than %d bytes", most)
		}
		if err := room.Take(len(body) + len(part)); err != nil {
			return nil, err
		}
		body = append(body, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		break
	}
	body = body[:len(body)-1]
	for _, b := range body {
		if b == startBlock {
			return nil, errFraming
		}
	}
	switch b, err := r.ReadByte(); {
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	case b != cr:
		return nil, errFraming
	}
	return body, nil
}

// frame returns a message as a block.
func frame(body []byte) []byte {
	out := append(make([]byte, 0, len(body)+3), startBlock)
	return append(append(out, body...), endBlock, cr)
}
