package audit

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// TestWhatIsFixedIsWrittenAsEver: a record reads the same, whether its fixed
// fields were written before or with it.
func TestWhatIsFixedIsWrittenAsEver(t *testing.T) {
	tls := &protocol.TLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256", Group: "X25519", SNI: `a"b\c`, ALPN: "h2", Resumed: true}
	for name, r := range map[string]Record{
		"nothing": {},
		"all of it": {
			Device: "pump-1", Class: "infusion-pump", Fingerprint: "00ff", DeviceStatus: "active", DeviceRevision: 7, Session: "S", Listener: "devices",
			Remote: netip.MustParseAddrPort("[2001:db8::1]:443"), TLS: tls, Route: "ehr\u2028", Backend: "b", Environment: "production", RouteClass: "clinical", Lane: true,
		},
		"some of it": {Device: "pump-1\x1b[31m", Remote: netip.MustParseAddrPort("192.0.2.1:1"), Route: "r"},
	} {
		r.Kind, r.Event, r.Age, r.Error = KindTransaction, "transaction.decided", 90*time.Second, "why"
		r.Decision = &Decision{ID: "d", Allow: true}
		r.Transaction = &protocol.Transaction{Protocol: "http", Action: "GET", Bytes: 3}
		read := func(r *Record) (out map[string]any) {
			line, err := newEncoder("run", nil).line(nil, 1, appendRecord(nil, r, time.Unix(1, 0), true))
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(line, &out); err != nil {
				t.Fatalf("%s: %v: %s", name, err, line)
			}
			return out
		}
		want := read(&r)
		r.Fixed = Fix(&r)
		if got := read(&r); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: fixed %v\nwant %v", name, got, want)
		}
	}
}
