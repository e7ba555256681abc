package telemetry

import (
	"maps"
	"sync"
	"sync/atomic"
)

// A memo keeps what belongs to a key, so that it is looked up once: finding a
// metric by its labels' values costs more than counting. Reading takes no lock.
// Keys must be few.
type memo[K comparable, V any] struct {
	known atomic.Pointer[map[K]V]
	mu    sync.Mutex
}

// of returns what belongs to k, made by f if it is not there.
func (m *memo[K, V]) of(k K, f func() V) V {
	if known := m.known.Load(); known != nil {
		if v, ok := (*known)[k]; ok {
			return v
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next := map[K]V{}
	if known := m.known.Load(); known != nil {
		if v, ok := (*known)[k]; ok {
			return v
		}
		next = maps.Clone(*known)
	}
	v := f()
	next[k] = v
	m.known.Store(&next)
	return v
}
