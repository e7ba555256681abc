package device

import (
	"hash/maphash"
	"slices"
	"sync"
)

// owners says which device something names, such as a certificate's fingerprint.
// It is asked when a certificate is given and by whoever looks a device up by one,
// never for a transaction, which knows the id. So it is small rather than an index
// of the table: it keeps a hash of the name with the id, 30 to 60 bytes where an
// index of the table takes 400, and who asks looks whether the record has the name.
type owners struct {
	seed maphash.Seed // nobody outside can make two names meet

	mu   sync.RWMutex
	one  map[uint64]string   // by hash of the name, the id
	more map[uint64][]string // further ids, where two names met or two devices have one name
}

// newOwners returns owners of nothing yet, with room for so many names.
func newOwners(names int) *owners {
	return &owners{seed: maphash.MakeSeed(), one: make(map[uint64]string, names), more: map[uint64][]string{}}
}

// of returns the ids of the devices that may have the name.
func (o *owners) of(name string) (one string, more []string) {
	h := maphash.String(o.seed, name)
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.one[h], o.more[h]
}

// add has a device own names.
func (o *owners) add(id string, names []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, name := range names {
		o.put(id, name)
	}
}

// put is add for the caller that holds mu, or is alone.
func (o *owners) put(id, name string) {
	h := maphash.String(o.seed, name)
	switch one, ok := o.one[h]; {
	case !ok:
		o.one[h] = id
	case one != id && !slices.Contains(o.more[h], id):
		o.more[h] = append(slices.Clip(o.more[h]), id)
	}
}

// leave takes the names that a device had and has no more.
func (o *owners) leave(id string, had, has []string) {
	kept := make([]uint64, 0, len(has))
	for _, name := range has {
		kept = append(kept, maphash.String(o.seed, name))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, name := range had {
		h := maphash.String(o.seed, name)
		if slices.Contains(kept, h) {
			continue
		}
		ids := o.more[h]
		switch i := slices.Index(ids, id); {
		case i >= 0:
			ids = slices.Delete(slices.Clone(ids), i, i+1) // a reader may have the former
		case o.one[h] != id:
			continue
		case len(ids) == 0:
			delete(o.one, h)
			continue
		default:
			o.one[h], ids = ids[0], ids[1:]
		}
		if len(ids) == 0 {
			delete(o.more, h)
		} else {
			o.more[h] = ids
		}
	}
}
