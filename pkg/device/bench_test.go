package device

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// fleet writes n full records straight into a store and returns its path.
func fleet(t testing.TB, n int) string {
	path := filepath.Join(t.TempDir(), "registry.db")
	st, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	err = st.Update(context.Background(), func(w store.Writer) error {
		for i := range n {
			at := time.Unix(1.7e9, 0).UTC()
			r := &Record{
				ID: fmt.Sprintf("pump-%06d", i), Class: "infusion-pump", Manufacturer: "Example Medical", Model: "Infuse 3000",
				Serial: strconv.Itoa(i), UDI: fmt.Sprintf("(01)00844588003288(21)%06d", i), Location: "ward-" + strconv.Itoa(i%40),
				Owner: "biomed", Tags: map[string]string{"cmms": strconv.Itoa(i)}, Status: Active, StatusAt: at, CreatedAt: at, UpdatedAt: at,
				Posture: Posture{Firmware: "4.2.1", MaxCVSS: 4.3, AssessedAt: at}, Revision: uint64(i + 1),
				Certificates: []Certificate{{Serial: strconv.Itoa(i), Fingerprint: fingerprint(i), NotBefore: at, NotAfter: at.Add(24 * time.Hour)}},
			}
			value, err := json.Marshal(r)
			if err != nil {
				return err
			}
			if err := w.Put(table, r.ID, value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// BenchmarkOpen is the start of a gateway with 100,000 devices.
func BenchmarkOpen(b *testing.B) {
	const n = 100_000
	path := fleet(b, n)
	st, err := bolt.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	var g *Registry
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for b.Loop() {
		if g, err = Open(context.Background(), st, Options{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(heap()-before)/n, "B/device")
	if c := g.Counts()[Active]; c != n {
		b.Fatalf("%d devices", c)
	}
}

func BenchmarkByFingerprint(b *testing.B) {
	g, done := open(b, fleet(b, 100_000))
	defer done()
	fp := fingerprint(77_777)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := g.ByFingerprint(fp); !ok {
			b.Fatal("not found")
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	g, done := open(b, fleet(b, 100_000))
	defer done()
	for b.Loop() {
		if _, err := g.Update(context.Background(), "pump-077777", func(r *Record) error { r.Location = "icu"; return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
