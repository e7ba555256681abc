package audit

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
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

// TestAFixedRequestIsWrittenAsEver: the same of a transaction, whose identifiers of
// patients are pseudonyms all the same.
func TestAFixedRequestIsWrittenAsEver(t *testing.T) {
	secret := protocol.Sensitive
	str := protocol.String
	for name, tx := range map[string]protocol.Transaction{
		"nothing": {Bytes: -1},
		"a part":  {Protocol: "fhir", Action: "create", Resource: "Observation", Bytes: 7, Of: "envelope", Part: 3},
		"no secret": {Protocol: "fhir", Action: "create", Resource: "Observation", Bytes: 1, Facts: []protocol.Field{
			{Name: "fhir", Value: protocol.Object(protocol.Field{Name: "params", Value: protocol.List(str("a"), protocol.Int(-5), protocol.Bool(true), protocol.Null())})}}},
		"secrets everywhere": {Protocol: "http", Action: "GET", Facts: []protocol.Field{
			{Name: "first", Value: secret("MRN-1")},
			{Name: "list", Value: protocol.List(secret("MRN-2"), secret("MRN-2"), str("x"), secret("MRN-3"))},
			{Name: "empty", Value: protocol.List()},
			{Name: "in", Value: protocol.Object(protocol.Field{Name: "a\"b", Value: protocol.List(protocol.List(secret("MRN-4")))}, protocol.Field{Name: "z", Value: protocol.Object()})},
			{Name: "last", Value: secret("MRN\u2028\"5")},
		}},
	} {
		for _, key := range [][]byte{nil, []byte("0123456789abcdef0123456789abcdef")} {
			r := Record{Kind: KindTransaction, Event: "transaction.decided", Transaction: &tx, Error: "why"}
			want, err := newEncoder("run", key).line(nil, 1, appendRecord(nil, &r, time.Unix(1, 0), true))
			if err != nil {
				t.Fatal(err)
			}
			r.FixedRequest = FixRequest(&tx)
			if r.FixedRequest.tokens == nil {
				t.Fatalf("%s: nothing was fixed", name)
			}
			got, err := newEncoder("run", key).line(nil, 1, appendRecord(nil, &r, time.Unix(1, 0), true))
			if err != nil || string(got) != string(want) {
				t.Errorf("%s: %v\nfixed %s\nwant  %s", name, err, got, want)
			}
			if key != nil && strings.Contains(string(got), "MRN") {
				t.Errorf("%s: an identifier is in the record: %s", name, got)
			}
			if short := appendRecord(nil, &r, time.Unix(1, 0), false); strings.Contains(string(short), "MRN") {
				t.Errorf("%s: the facts are in a record that leaves them out", name)
			}
		}
	}
}
