package ca

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRevoke(t *testing.T) {
	dir := newCA(t)
	a := openCA(t, dir)
	issued, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	other, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	serial := issued.Leaf.SerialNumber.String()
	if is, err := a.IsRevoked(serial); err != nil || is {
		t.Fatal(is, err)
	}
	for _, reason := range []string{"Key Compromise", "again, for another reason"} {
		if err := a.Revoke(t.Context(), serial, reason); err != nil {
			t.Fatal(err)
		}
	}
	list, err := a.db.GetRevokedCertificates()
	if err != nil || len(*list) != 1 {
		t.Fatal(list, err)
	}
	got := (*list)[0]
	if got.Serial != serial || got.Reason != "Key Compromise" || got.ReasonCode != 1 || !got.ExpiresAt.Equal(issued.Leaf.NotAfter) {
		t.Errorf("%+v", got)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = openCA(t, dir)
	if is, err := a.IsRevoked(serial); err != nil || !is {
		t.Error("forgotten", err)
	}
	if is, err := a.IsRevoked(other.Leaf.SerialNumber.String()); err != nil || is {
		t.Error("another certificate was revoked too", err)
	}
}

func TestRevokeRefuses(t *testing.T) {
	a := openCA(t, newCA(t))
	if err := a.Revoke(t.Context(), "123456789", ""); !errors.Is(err, ErrUnknownSerial) {
		t.Error(err)
	}
	for _, serial := range []string{"", "0", "01", "-1", "+1", "0x1f", "1 ", "a", strings.Repeat("1", maxSerial+1)} {
		if err := a.Revoke(t.Context(), serial, ""); err == nil || errors.Is(err, ErrUnknownSerial) {
			t.Errorf("%q: %v", serial, err)
		}
		if _, err := a.IsRevoked(serial); err == nil {
			t.Errorf("%q looked up", serial)
		}
	}
	if err := a.Revoke(t.Context(), "1", strings.Repeat("x", maxReason+1)); err == nil {
		t.Error("a huge reason was taken")
	}
}

func TestConcurrentUse(t *testing.T) {
	a := openCA(t, newCA(t))
	r := device1(t, P256)
	const workers, each = 8, 10
	serials := make(chan string, workers*each)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				issued, err := a.Issue(t.Context(), r)
				if err != nil {
					t.Error(err)
					return
				}
				serial := issued.Leaf.SerialNumber.String()
				serials <- serial
				if i%2 == 0 {
					// Two at once revoke the same certificate; both succeed.
					var two sync.WaitGroup
					for range 2 {
						two.Go(func() {
							if err := a.Revoke(t.Context(), serial, "retired"); err != nil {
								t.Error(err)
							}
						})
					}
					two.Wait()
				}
				if is, err := a.IsRevoked(serial); err != nil || is != (i%2 == 0) {
					t.Error(is, err)
				}
			}
		})
	}
	wg.Wait()
	close(serials)
	seen := map[string]bool{}
	for s := range serials {
		seen[s] = true
	}
	if len(seen) != workers*each {
		t.Errorf("%d different serial numbers of %d", len(seen), workers*each)
	}
}

func BenchmarkIssue(b *testing.B) {
	a := openCA(b, newCA(b))
	r := device1(b, P256)
	r.TTL = time.Hour
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			if _, err := a.Issue(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.SetParallelism(16)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if _, err := a.Issue(b.Context(), r); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
