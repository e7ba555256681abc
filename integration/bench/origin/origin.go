// Package origin is the benchmark's backend for what nginx's fixed answer is not
// enough for: it reads an upload whole before it answers, which keeps a gateway
// from discarding what it should forward, and says when its first byte came;
// it sends a study of whatever size it is asked for; and it holds WebSockets open.
//
// It runs as a process of its own on the load's core.
package origin

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// chunk is how much is read or written at a time.
const chunk = 64 << 10

// A Config says where it listens.
type Config struct {
	Addr      string
	Cert, Key string // PEM files
}

// A Receipt is the answer to an upload.
type Receipt struct {
	Bytes int64
	First time.Time // when the first byte of the body was here
}

// Main serves until it is ended from outside, and returns an exit code.
func Main(config string, stderr io.Writer) int {
	err := serve(config)
	fmt.Fprintln(stderr, "origin:", err)
	return 1
}

func serve(config string) error {
	var c Config
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	return http.Serve(tls.NewListener(ln, conf), Handler())
}

// Handler returns what answers.
func Handler() http.Handler {
	noise := make([]byte, chunk)
	for i := range noise {
		noise[i] = byte(i * 7)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
			hold(w, r)
		case r.Method == http.MethodPost:
			receive(w, r)
		default:
			send(w, r, noise)
		}
	})
}

// receive reads the whole body, and only then answers.
func receive(w http.ResponseWriter, r *http.Request) {
	buf := make([]byte, chunk)
	var got Receipt
	for {
		n, err := r.Body.Read(buf)
		if n > 0 && got.Bytes == 0 {
			got.First = time.Now()
		}
		got.Bytes += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return // who sent it is gone
		}
	}
	text, err := json.Marshal(got)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/dicom+json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = w.Write(text) // its reader's matter
}

// send answers a GET of .../studies/N/... with N bytes.
func send(w http.ResponseWriter, r *http.Request, noise []byte) {
	_, rest, _ := strings.Cut(r.URL.Path, "/studies/")
	study, _, _ := strings.Cut(rest, "/")
	size, err := strconv.ParseInt(study, 10, 64)
	if err != nil || size < 0 {
		http.Error(w, "no such study", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/dicom+json")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	for size > 0 {
		n, err := w.Write(noise[:min(int64(len(noise)), size)])
		if err != nil {
			return
		}
		size -= int64(n)
	}
}

// hold keeps a WebSocket until the other side ends it.
func hold(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // any Origin: it has no secrets
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		if _, _, err := c.Read(r.Context()); err != nil {
			return
		}
	}
}
