package fleet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// readBuffer holds a response's head.
const readBuffer = 4096

// request returns the bytes of the plan's request.
func request(p *Plan) ([]byte, error) {
	var body []byte
	if p.Body != "" {
		var err error
		if body, err = os.ReadFile(p.Body); err != nil {
			return nil, err
		}
	}
	return append(head(p, int64(len(body))), body...), nil
}

// head returns the bytes of the plan's request up to its body.
func head(p *Plan, length int64) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", p.Method, p.Path, p.ServerName)
	if p.ContentType != "" {
		fmt.Fprintf(&b, "Content-Type: %s\r\n", p.ContentType)
	}
	if length > 0 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", length)
	}
	if p.Mode == Churn {
		b.WriteString("Connection: close\r\n")
	}
	if p.WebSocket {
		// The key of RFC 6455, section 1.3: any will do.
		b.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// errTruncated says that a connection ended within an answer.
var errTruncated = errors.New("the answer is cut short")

// readHead reads the head of a final response: its status and the length of its
// body, which it must give.
func readHead(r *bufio.Reader) (status int, length int64, err error) {
	for {
		line, err := readLine(r)
		if err != nil {
			return 0, 0, err
		}
		rest, ok := bytes.CutPrefix(line, []byte("HTTP/1.1 "))
		if !ok || len(rest) < 3 {
			return 0, 0, errors.New("not an HTTP/1.1 answer")
		}
		if status, err = strconv.Atoi(string(rest[:3])); err != nil {
			return 0, 0, errors.New("an answer without a status")
		}
		length = -1
		for {
			if line, err = readLine(r); err != nil {
				return 0, 0, err
			}
			if len(line) == 0 {
				break
			}
			name, value, _ := bytes.Cut(line, []byte(":"))
			if !bytes.EqualFold(name, []byte("Content-Length")) {
				continue
			}
			if length, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64); err != nil || length < 0 {
				return 0, 0, errors.New("an answer with a bad Content-Length")
			}
		}
		switch {
		case status/100 == 1 && status != 101:
			continue
		case status == 101 || status == 204:
			return status, 0, nil
		case length < 0:
			return status, 0, fmt.Errorf("an answer of status %d without Content-Length", status)
		}
		return status, length, nil
	}
}

// readLine returns a line without its end. It is good until the next read: a
// generator that makes garbage stands still to collect it.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errTruncated
		}
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// exchange sends a request and reads its answer whole. An answer that is not a
// success is an error.
func exchange(w io.Writer, r *bufio.Reader, req []byte) error {
	if _, err := w.Write(req); err != nil {
		return err
	}
	return receive(r)
}

// receive reads an answer whole, which must be a success.
func receive(r *bufio.Reader) error {
	status, length, err := readHead(r)
	if err != nil {
		return err
	}
	if n, err := r.Discard(int(length)); err != nil {
		return fmt.Errorf("%w after %d bytes of its body", errTruncated, n)
	}
	if status/100 != 2 {
		return fmt.Errorf("answered with status %d", status)
	}
	return nil
}
