package device

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// batch is how many records are written at a time.
const batch = 10_000

// member is a full record of a fleet.
func member(i int) *Record {
	at := time.Unix(1.7e9, 0).UTC()
	return &Record{
		ID: fmt.Sprintf("pump-%06d", i), Class: "infusion-pump", Manufacturer: "Example Medical", Model: "Infuse 3000",
		Serial: strconv.Itoa(i), UDI: fmt.Sprintf("(01)00844588003288(21)%06d", i), Location: "ward-" + strconv.Itoa(i%40),
		Owner: "biomed", Tags: map[string]string{"network": "vlan-" + strconv.Itoa(i%8)}, Status: Active, StatusAt: at, CreatedAt: at, UpdatedAt: at,
		Posture: Posture{Firmware: "4.2.1", MaxCVSS: 4.3, AssessedAt: at}, Revision: uint64(i + 1),
		Certificates: []Certificate{{
			Serial: fmt.Sprintf("%039d", i), Fingerprint: fingerprint(i), NotBefore: at, NotAfter: at.Add(24 * time.Hour),
			Key: fingerprint(1<<40 + i), Way: "est", IssuedAt: at,
		}},
	}
}

// fleet writes n full records straight into a store and returns its path.
func fleet(t testing.TB, n int) string {
	path := filepath.Join(t.TempDir(), "registry.db")
	st, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for first := 0; first < n; first += batch {
		if err := st.Update(context.Background(), func(w store.Writer) error {
			for i := first; i < min(n, first+batch); i++ {
				value, err := json.Marshal(member(i))
				if err != nil {
					return err
				}
				if err := w.Put(table, member(i).ID, value); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// sizes are of fleets. With -short the largest, which takes most of a minute to make,
// is left out.
func sizes(n ...int) []int {
	if testing.Short() {
		return n[:len(n)-1]
	}
	return n
}

// BenchmarkOpen is the start of a gateway with very many devices.
func BenchmarkOpen(b *testing.B) {
	for _, n := range sizes(100_000, 1_000_000) {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			st, err := bolt.Open(fleet(b, n))
			if err != nil {
				b.Fatal(err)
			}
			defer st.Close()
			var g *Registry
			heap := func() uint64 {
				var m runtime.MemStats
				runtime.GC() // twice: pools let go of what they hold in the second
				runtime.GC()
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			before := heap()
			b.ReportAllocs()
			for b.Loop() {
				g = nil
				if g, err = Open(context.Background(), st, Options{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(heap()-before)/float64(n), "B/device")
			if c := g.Counts()[Active]; c != n {
				b.Fatalf("%d devices", c)
			}
		})
	}
}

// made is a store with a fleet in it that rests nowhere.
type made struct {
	store.Store
	n int
}

func (m made) View(_ context.Context, f func(store.Reader) error) error { return f(m) }

func (m made) Get(string, string) ([]byte, error) { return nil, store.ErrNotFound }

func (m made) Each(of, _ string, f func(string, []byte) error) error {
	for i := 0; of == table && i < m.n; i++ {
		value, err := json.Marshal(member(i))
		if err != nil {
			return err
		}
		if err := f(member(i).ID, value); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkGet looks up one device after another, which are never in the CPU's
// cache when they are many, and one again and again.
func BenchmarkGet(b *testing.B) {
	for _, n := range sizes(100, 10_000, 1_000_000) {
		g, err := Open(context.Background(), made{n: n}, Options{})
		if err != nil {
			b.Fatal(err)
		}
		ids := make([]string, 0, n)
		for i := range n {
			ids = append(ids, member(i).ID)
		}
		rand.New(rand.NewPCG(1, 1)).Shuffle(n, func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		for what, ids := range map[string][]string{"all": ids, "one": ids[:1]} {
			b.Run(fmt.Sprintf("%d/%s", n, what), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if _, ok := g.Get(ids[i%len(ids)]); !ok {
						b.Fatal("not found")
					}
				}
			})
		}
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
