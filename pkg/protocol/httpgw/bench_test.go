package httpgw

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// typical is what a monitor sends every few seconds.
var typical = []byte("POST /api/Observation?_format=json HTTP/1.1\r\nHost: " + testHost + "\r\nUser-Agent: monitor/4.2\r\n" +
	"Accept: application/fhir+json\r\nContent-Type: application/fhir+json\r\nAuthorization: Bearer abcdef\r\nContent-Length: 1024\r\n\r\n" +
	strings.Repeat("x", 1024))

func BenchmarkParse(b *testing.B) {
	raw := typical[:bytes.Index(typical, []byte("\r\n\r\n"))+4]
	b.ReportAllocs()
	var h head
	for b.Loop() {
		n, f := headEnd(raw, 0)
		if f != nil || n != len(raw) {
			b.Fatal(f)
		}
		if f := h.parse(raw, 100); f != nil {
			b.Fatal(f)
		}
	}
}

func BenchmarkCanonical(b *testing.B) {
	for name, target := range map[string]string{"Plain": "/fhir/Observation/123?_format=json", "Escaped": "/fhir/%50atient/a%20b?name=J%C3%BCrgen+K&_count=10"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				t, err := Canonical(target)
				if err != nil {
					b.Fatal(err)
				}
				if len(t.Path) == 0 {
					b.Fatal("no path")
				}
			}
		})
	}
}

func BenchmarkSerialise(b *testing.B) {
	t, err := Canonical("/fhir/Observation/123?_format=json&name=J%C3%BCrgen")
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendQuery(AppendPath(buf[:0], t.Path), t.Query)
	}
}

func BenchmarkFacts(b *testing.B) {
	g := quiet(b)
	m, _, _, _, err := readAll(g, protocol.NewSession(nil), typical)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		tx := m.transaction()
		if tx.Action != "POST" {
			b.Fatal(tx.Action)
		}
	}
}

// instant is a backend that answers without a network.
type instant struct{ failing }

func (instant) Do(_ *upstream.Request, resp *upstream.Response) error {
	resp.Answer(201, http1.Header{{Name: "content-type", Value: "application/fhir+json"}}, 2, io.NopCloser(strings.NewReader("{}")))
	return nil
}

// BenchmarkExchange is one request and its answer on an open connection, with a
// judge and a backend that cost nothing.
func BenchmarkExchange(b *testing.B) {
	r := newRig(b, instant{})
	r.g.cfg.Judge = &idle{}
	conn, _ := r.connect()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		b.Fatal(err)
	}
	br := bufio.NewReader(conn)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(typical); err != nil {
			b.Fatal(err)
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 201 {
			b.Fatal(resp.Status, err)
		}
	}
}

// idle allows everything and keeps nothing.
type idle struct{ bench }

func (*idle) Judge(context.Context, *protocol.Session, *protocol.Route, *protocol.Transaction) protocol.Verdict {
	return protocol.Verdict{ID: "d", Allow: true}
}
