package audit

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m,
		// Started by the packages below Tessera when the program starts.
		goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
	)
}

var testOrigin = Origin("hospital.example")

// testConfig has blocks and segments so small that a few records make many.
func testConfig(dir string) Config {
	return Config{Dir: dir, Origin: testOrigin, Audit: config.Audit{
		BlockRecords: 7, BlockTime: config.Duration(time.Hour), FlushTime: config.Duration(time.Millisecond),
		Buffer: minBuffer, RotateSize: 20 << 10, MinFree: 1,
	}}
}

// must opens a log that the test closes.
func must(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// fill appends n records and flushes now and then, so that segments are many.
func fill(t testing.TB, l *Log, n int) {
	t.Helper()
	r := sample()
	for i := range n {
		r.Decision.ID = fmt.Sprintf("d%d", i)
		if err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if err := l.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// sample is the record of a monitor that posts a vital sign, as the gateway
// makes them.
func sample() *Record {
	return &Record{
		Kind: KindTransaction, Event: "transaction.decided",
		Device: "monitor-0042", Class: "patient-monitor", DeviceStatus: "active",
		Fingerprint: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		Session:     "s-5e8f2a91c044", Listener: "devices", Remote: netip.MustParseAddrPort("10.20.30.40:51234"),
		TLS:   &protocol.TLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256", Group: "X25519MLKEM768", SNI: "gateway.hospital.example", ALPN: "http/1.1"},
		Route: "fhir", Backend: "ehr", Environment: "production",
		Decision: &Decision{
			ID: "01JD5W7ZK3QX8M2T", Allow: true, Reasons: []string{"monitors may report vital signs"},
			Revision: "sha256:3b1f9c2a7d", Elapsed: 8400 * time.Nanosecond,
		},
		Transaction: &protocol.Transaction{
			Protocol: "fhir", Action: "create", Resource: "Observation", Bytes: 1204,
			Facts: []protocol.Field{
				{Name: "http", Value: protocol.Object(
					protocol.Field{Name: "method", Value: protocol.String("POST")},
					protocol.Field{Name: "host", Value: protocol.String("gateway.hospital.example")},
					protocol.Field{Name: "path", Value: protocol.Strings("fhir", "Observation")},
					protocol.Field{Name: "content_type", Value: protocol.String("application/fhir+json")},
				)},
				{Name: "fhir", Value: protocol.Object(
					protocol.Field{Name: "interaction", Value: protocol.String("create")},
					protocol.Field{Name: "type", Value: protocol.String("Observation")},
					protocol.Field{Name: "patient", Value: protocol.Sensitive("Patient/8c2f1d")},
				)},
			},
		},
	}
}

// collect reads all records that the options choose.
func collect(t testing.TB, dir string, opt ReadOptions) []*Entry {
	t.Helper()
	var out []*Entry
	for e, err := range Read(context.Background(), dir, opt) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// events returns the records of an event.
func events(t testing.TB, dir, event string) []*Entry {
	t.Helper()
	return collect(t, dir, ReadOptions{Filter: Filter{Event: event}})
}
