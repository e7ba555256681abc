package demo

import (
	"bytes"
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
)

// However short the demo is, and wherever in the attackers' first round its end
// falls, every device has worked and every attacker has tried, against a gateway
// that was still there.
func TestEveryoneHasATurnHoweverShortTheDemoIs(t *testing.T) {
	for _, length := range []time.Duration{time.Nanosecond, attackEvery / 2, 2*attackEvery + attackEvery/2} {
		t.Run(length.String(), func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if err := Run(t.Context(), Config{Out: &out, For: length}); err != nil {
				t.Errorf("%v\n%s", err, out.String())
			}
			for _, line := range []string{
				`no certificate +\d+ +.*certificate required`,
				`foreign certificate +\d+ +.*unknown certificate authority`,
				`revoked device +\d+ +.*bad certificate`,
				`compromised monitor +\d+ +status 403`,
			} {
				if !regexp.MustCompile(`(?m)^` + line).Match(out.Bytes()) {
					t.Errorf("no line like %q:\n%s", line, out.String())
				}
			}
			for _, p := range profiles {
				if !regexp.MustCompile(fmt.Sprintf(`(?m)^%s +%s +[1-9]`, p.id, p.class)).Match(out.Bytes()) {
					t.Errorf("%s did nothing:\n%s", p.id, out.String())
				}
			}
		})
	}
}

// An attacker that did not try, or that was not refused, fails the demo.
func TestAnAttackerThatDidNotTryFailsTheDemo(t *testing.T) {
	h := &hospital{back: newBackend()}
	h.screen = newScreen(&bytes.Buffer{}, false)
	for _, p := range profiles {
		h.screen.tally[p.id] = &tally{class: p.class, allowed: 1}
	}
	heard := func(name string, status int) {
		h.screen.attacked(attempt{attacker: &attacker{name: name}, status: status, heard: "refused"})
	}
	heard(noCertificate, 0)
	heard(foreign, 0)
	heard(revoked, 0)
	if err := h.screen.summary(h, &audit.Report{}); err == nil {
		t.Error("three of four attackers are enough")
	}
	h.screen.wrong = nil
	heard(compromised, 403)
	if err := h.screen.summary(h, &audit.Report{}); err != nil {
		t.Error(err)
	}
	heard(compromised, 200)
	if err := h.screen.summary(h, &audit.Report{}); err == nil {
		t.Error("an attacker got through, and nobody minds")
	}
}
