package policy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// memory is a store that forgets: the registry keeps what it needs itself.
type memory struct{}

func (m memory) View(_ context.Context, f func(store.Reader) error) error   { return f(m) }
func (m memory) Update(_ context.Context, f func(store.Writer) error) error { return f(m) }
func (memory) Close() error                                                 { return nil }
func (memory) Get(string, string) ([]byte, error)                           { return nil, store.ErrNotFound }
func (memory) Each(string, string, func(string, []byte) error) error        { return nil }
func (memory) Put(string, string, []byte) error                             { return nil }
func (memory) Delete(string, string) error                                  { return nil }

// talkers is how many devices of a fleet have something to say, unless all do.
const talkers = 100

// A fleet is a registry of n devices, and the question that each of some of them
// asks again and again. They stand apart by id, serial number, place and firmware,
// as in a hospital.
type fleet struct {
	registry  *device.Registry
	questions []*Question
}

func newFleet(tb testing.TB, n, asking int) *fleet {
	tb.Helper()
	g, err := device.Open(context.Background(), memory{}, device.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	f := &fleet{registry: g}
	for i := range n {
		k := i / (n / asking) // the same traits for those who ask, however many others there are
		rec, err := g.Create(context.Background(), &device.Record{
			ID: fmt.Sprintf("monitor-%06d", i), Class: "patient-monitor", Manufacturer: "Example Medical", Model: "Bedside 3000",
			Serial: fmt.Sprint(i), Location: fmt.Sprintf("ward-%d", k%40), Owner: "biomed", Tags: map[string]string{"cmms": fmt.Sprint(i)},
			Status: device.Active, LifeCritical: k%10 == 0,
			Posture:      device.Posture{Firmware: fmt.Sprintf("4.%d", k%7), MaxCVSS: float64(k%60) / 10, AssessedAt: noon.AddDate(0, 0, -k%300)},
			Certificates: []device.Certificate{{Serial: fmt.Sprint(i), Fingerprint: fmt.Sprintf("%064x", i), NotBefore: noon.AddDate(0, -1, 0), NotAfter: noon.AddDate(1, 0, 0)}},
		})
		if err != nil {
			tb.Fatal(err)
		}
		if i%(n/asking) == 0 {
			s := sessionOf(rec)
			s.Fingerprint = rec.Certificates[0].Fingerprint
			f.questions = append(f.questions, &Question{Device: rec, Session: s, Route: routeTo("ehr"), Transaction: fhirAsks("create", "Observation"), Now: noon})
		}
	}
	// Devices do not take turns in the order they were enrolled in.
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(f.questions), func(i, j int) { f.questions[i], f.questions[j] = f.questions[j], f.questions[i] })
	return f
}

// BenchmarkFleet is the way of a transaction through registry and policy, with
// few devices enrolled and with many: looked up by its id, then decided, from
// memory (hit) or by OPA (miss). In few the same hundred devices talk whatever
// the size of the fleet, in all every device does.
func BenchmarkFleet(b *testing.B) {
	hit, miss := load(b, shipped, Options{}), load(b, shipped, Options{CacheEntries: -1})
	for _, size := range []struct {
		name      string
		n, asking int
	}{{"few/100", talkers, talkers}, {"few/100000", 100_000, talkers}, {"all/100000", 100_000, 100_000}} {
		var f *fleet
		for _, path := range []struct {
			name string
			set  *Set
		}{{"hit", hit}, {"miss", miss}} {
			b.Run(path.name+"/"+size.name, func(b *testing.B) {
				if f == nil {
					f = newFleet(b, size.n, size.asking)
				}
				f.talk(b, path.set)
			})
		}
	}
}

func (f *fleet) talk(b *testing.B, s *Set) {
	ctx := context.Background()
	turn := func(i int) {
		q := f.questions[i%len(f.questions)]
		rec, ok := f.registry.Get(q.Device.ID)
		if !ok {
			b.Fatal("a device is gone")
		}
		q.Device = rec
		if d := s.Decide(ctx, q); !d.Allow {
			b.Fatal(d)
		}
	}
	if s.cache != nil { // what is remembered was asked before
		for i := range len(f.questions) {
			turn(i)
		}
	}
	b.ReportAllocs()
	i, done := 0, cpu(b)
	for b.Loop() {
		turn(i)
		i++
	}
	done()
}

// BenchmarkRegistry is the part of that which is not the policy's.
func BenchmarkRegistry(b *testing.B) {
	for _, n := range []int{talkers, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := newFleet(b, n, talkers)
			i := 0
			for b.Loop() {
				if _, ok := f.registry.Get(f.questions[i%talkers].Device.ID); !ok {
					b.Fatal("a device is gone")
				}
				i++
			}
		})
	}
}
