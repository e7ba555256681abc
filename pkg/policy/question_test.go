package policy

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// noon is the moment tests ask at: a Monday.
var noon = time.Date(2026, 2, 16, 12, 34, 56, 0, time.UTC)

const fingerprint = "5f2b6d"

// deviceOf returns an active device of a class.
func deviceOf(class string) *device.Record {
	return &device.Record{
		ID: class + "-0001", Class: class, Manufacturer: "Example Devices", Model: "X", Serial: "S1",
		Location: "icu-2", Owner: "intensive care", Tags: map[string]string{"bed": "7"},
		Status: device.Active, Revision: 1,
		Posture:      device.Posture{Firmware: "4.2", MaxCVSS: 5.3, AssessedAt: noon.AddDate(0, 0, -40)},
		Certificates: []device.Certificate{{Serial: "77", Fingerprint: fingerprint, NotAfter: noon.AddDate(1, 0, 0)}},
	}
}

func sessionOf(d *device.Record) *protocol.Session {
	s := protocol.NewSession(d)
	s.ID, s.Listener, s.Fingerprint = "s1", "devices", fingerprint
	s.Remote = netip.MustParseAddrPort("10.1.2.3:4567")
	s.Started = noon.Add(-90 * time.Second)
	s.TLS = protocol.TLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256", Group: "X25519MLKEM768", SNI: "gateway.example", ALPN: "h2"}
	return s
}

func routeTo(name string) *protocol.Route {
	return &protocol.Route{Name: name, Backend: name, Environment: "production", Class: protocol.Clinical}
}

func field(name string, v protocol.Value) protocol.Field { return protocol.Field{Name: name, Value: v} }

// httpFacts are the facts httpgw gives for every request.
func httpFacts(method string, path ...string) protocol.Field {
	return field("http", protocol.Object(
		field("method", protocol.String(method)),
		field("host", protocol.String("gateway.example")),
		field("path", protocol.Strings(path...)),
		field("query", protocol.Object()),
		field("headers", protocol.Object(field("user-agent", protocol.Strings("x/1")))),
		field("content_type", protocol.String("application/fhir+json")),
	))
}

// fhirAsks returns a FHIR transaction, with fields added to or replacing the
// usual facts.
func fhirAsks(interaction, typ string, with ...protocol.Field) *protocol.Transaction {
	facts := []protocol.Field{
		field("interaction", protocol.String(interaction)),
		field("type", protocol.String(typ)),
		field("id", protocol.String("")),
		field("version", protocol.String("")),
		field("operation", protocol.String("")),
		field("level", protocol.String("type")),
		field("params", protocol.Strings()),
		field("modifiers", protocol.Strings()),
		field("includes", protocol.Strings()),
		field("chains", protocol.Strings()),
		field("result_params", protocol.Strings()),
		field("unknown_params", protocol.Strings()),
		field("preconditions", protocol.Strings()),
		field("conditional", protocol.Bool(false)),
		field("entry", protocol.Bool(false)),
	}
next:
	for _, w := range with {
		for i := range facts {
			if facts[i].Name == w.Name {
				facts[i] = w
				continue next
			}
		}
		facts = append(facts, w)
	}
	return &protocol.Transaction{
		Protocol: "fhir", Action: interaction, Resource: typ, Bytes: 900,
		Facts: []protocol.Field{httpFacts("POST", "fhir", typ), field("fhir", protocol.Object(facts...))},
	}
}

func httpAsks(method string, query []protocol.Field, path ...string) *protocol.Transaction {
	f := httpFacts(method, path...)
	fields := f.Value.Fields()
	for i := range fields {
		if fields[i].Name == "query" {
			fields[i].Value = protocol.Object(query...)
		}
	}
	return &protocol.Transaction{Protocol: "http", Action: method, Bytes: -1, Facts: []protocol.Field{f}}
}

// ask returns a whole question.
func ask(class string, tx *protocol.Transaction) *Question {
	d := deviceOf(class)
	return &Question{Device: d, Session: sessionOf(d), Route: routeTo("ehr"), Transaction: tx, Now: noon}
}

func load(tb testing.TB, dir string, opt Options) *Set {
	tb.Helper()
	s, err := Load(context.Background(), dir, opt)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

const shipped = "../../policies"
