package device

import "sync"

// known is what is known of all records together and no transaction asks: whose
// certificates and keys are, and how many devices there are of what kind. It is
// found out when somebody asks for the first time, so that a gateway with a
// million devices serves them before.
type known struct {
	once               sync.Once
	fingerprints, keys *owners
	tally              *tally
	// How many there were when the registry was read: room is made for them.
	certificates, keyed int
}

// Index finds out now what otherwise the first who asks waits for: whoever counts
// devices, looks for a certificate, or changes a device.
func (g *Registry) Index() { g.index() }

// index returns what is known of all records. No change is missed or counted
// twice: each asks for it before it becomes visible, waits while it is found out,
// and then brings in what it changed.
func (g *Registry) index() *known {
	n := &g.known
	n.once.Do(func() {
		<-g.reading.done
		n.fingerprints, n.keys, n.tally = newOwners(n.certificates), newOwners(n.keyed), newTally()
		g.each(func(r *Record) {
			n.tally.add(r)
			for i := range r.Certificates {
				n.fingerprints.put(r.ID, r.Certificates[i].Fingerprint)
				if k := r.Certificates[i].Key; k != "" {
					n.keys.put(r.ID, k)
				}
			}
		})
	})
	return n
}

// ByFingerprint returns the record of the device that a certificate belongs to,
// whether it is still valid or not.
func (g *Registry) ByFingerprint(fp string) (*Record, bool) {
	return g.owner(g.index().fingerprints, fp, func(c *Certificate) bool { return c.Fingerprint == fp })
}

// ByKey returns the record of the device that a key belongs to, or belonged to:
// see [Certificate].
func (g *Registry) ByKey(key string) (*Record, bool) {
	return g.owner(g.index().keys, key, func(c *Certificate) bool { return c.Key == key })
}

// owner returns the record of the device that has the name, as has finds it.
func (g *Registry) owner(o *owners, name string, has func(*Certificate) bool) (*Record, bool) {
	if name == "" {
		return nil, false
	}
	one, more := o.of(name)
	txn := g.db.Txn(false)
	for i := -1; i < len(more); i++ {
		id := one
		if i >= 0 {
			id = more[i]
		}
		if r, ok := get(txn, id); ok {
			for i := range r.Certificates {
				if has(&r.Certificates[i]) {
					return r, true
				}
			}
		}
	}
	return nil, false
}

// own has a device own what its record names. It comes before the record is
// visible: who asks for a name looks into the record.
func (g *Registry) own(r *Record) {
	n := g.index()
	n.fingerprints.add(r.ID, r.fingerprints())
	n.keys.add(r.ID, r.keys())
}

// disown takes from a device what its record named and names no more. It comes
// after the record is visible.
func (g *Registry) disown(old, r *Record) {
	n := g.index()
	n.fingerprints.leave(r.ID, old.fingerprints(), r.fingerprints())
	n.keys.leave(r.ID, old.keys(), r.keys())
}

func (r *Record) fingerprints() []string {
	out := make([]string, 0, len(r.Certificates))
	for i := range r.Certificates {
		out = append(out, r.Certificates[i].Fingerprint)
	}
	return out
}

func (r *Record) keys() []string {
	out := make([]string, 0, len(r.Certificates))
	for i := range r.Certificates {
		if k := r.Certificates[i].Key; k != "" {
			out = append(out, k)
		}
	}
	return out
}
