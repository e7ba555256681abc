package cli

import (
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
)

// shownDivergences is how many differences status prints; --json has more.
const shownDivergences = 20

// printShadow prints what the set that is only tried would have decided
// otherwise.
func printShadow(row func(name, format string, args ...any), st *admin.ShadowStatus) {
	if st.Revision == "" {
		row("shadow", "nothing from %s is compared", st.Dir)
		if st.Refused != "" {
			row("SHADOW REFUSED", "%s", st.Refused)
		}
		return
	}
	row("shadow", "%s from %s, compared with %s since %s", st.Revision, st.Dir, st.Enforced, st.Since.Format(time.RFC3339))
	row("", "%d decisions compared, %d differ; %d skipped, %d without a fact it reads", st.Compared, st.Different, st.Skipped, st.Incomparable)
	for i, d := range st.Divergences {
		if i == shownDivergences {
			row("", "and %d more rows, the first of them in --json", st.Rows-i)
			break
		}
		device := d.Device
		if device == "" {
			device = "(others)"
		}
		row("", "%d × %s: %s %q (such as %s)", d.Count, device, d.Change, d.Rule, d.Example)
	}
	if st.Refused != "" {
		row("SHADOW REFUSED", "%s", st.Refused)
	}
}
