package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	opabundle "github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
)

func (a *app) policyDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use: "diff OLD [NEW]", Short: "Compare policy sets: revisions, directories, bundles",
		Long: `Compare two policy sets by file, by rule and by value. Each is a directory, a
bundle, or a pushed revision by its number or content hash. Without NEW, OLD is
compared to the revision in force: what rolling back to it would undo.`,
		Example: `  anteroom policy diff 3 4
  anteroom policy diff 4 policies
  anteroom policy diff policies policies-next`,
		Args: func(cmd *cobra.Command, got []string) error {
			if len(got) == 0 {
				return usagef("%s: the older set is missing: a revision, a directory or a bundle", cmd.CommandPath())
			}
			if len(got) > 2 {
				return usagef("%s: %q is too much", cmd.CommandPath(), got[2])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, arg []string) error {
			older, err := a.policySource(cmd, arg[0])
			if err != nil {
				return err
			}
			ref := ""
			if len(arg) > 1 {
				ref = arg[1]
			}
			newer, err := a.policySource(cmd, ref)
			if err != nil {
				return err
			}
			d, err := policy.Diff(older, newer)
			if err != nil {
				return err
			}
			return a.print(d, func(w io.Writer) { printDiff(w, older, newer, d) })
		},
	}
}

// policySource reads a directory, a bundle or, of the gateway, a revision.
func (a *app) policySource(cmd *cobra.Command, ref string) (src *policy.Source, err error) {
	if ref != "" {
		if _, err := os.Stat(ref); err == nil {
			return policy.Read(ref, policy.Options{})
		}
	}
	err = a.with(cmd, func(ctx context.Context, api *admin.API) error {
		rev, err := api.PolicyRevision(ctx, ref)
		if e, ok := errors.AsType[*admin.Error](err); ref != "" && (ok && e.Code == admin.CodeNotFound || errors.Is(err, opabundle.ErrNoRevision)) {
			return fmt.Errorf("%w, and no directory or bundle has that name", err)
		}
		if err != nil {
			return err
		}
		b, err := opabundle.Read(bytes.NewReader(rev.Bundle), opabundle.Limits{Bytes: int64(len(rev.Bundle)) * maxRatio, Files: policy.DefaultMaxFiles})
		if err != nil {
			return err
		}
		src, err = policy.FromBundle(b, "revision "+rev.Entry.Short(), policy.Options{MaxBytes: int64(len(rev.Bundle)) * maxRatio})
		return err
	})
	return src, err
}

// maxRatio is more than gzip compresses anything.
const maxRatio = 1100

func printDiff(w io.Writer, older, newer *policy.Source, d *policy.Difference) {
	if d.Empty() {
		fmt.Fprintf(w, "%s and %s are the same\n", older.Name(), newer.Name())
		return
	}
	fmt.Fprintf(w, "From %s to %s: %s, %s, %s differ\n", older.Name(), newer.Name(),
		plural(len(d.Files), "file"), plural(len(d.Rules), "rule"), plural(len(d.Data), "value"))
	marks := map[string]string{policy.Added: "+", policy.Removed: "-", policy.Changed: "~"}
	for _, part := range []struct {
		title   string
		changes []policy.Change
	}{{"files", d.Files}, {"rules", d.Rules}, {"data", d.Data}} {
		if len(part.changes) > 0 {
			fmt.Fprintf(w, "%s:\n", part.title)
		}
		for _, c := range part.changes {
			fmt.Fprintf(w, "  %s %s", marks[c.What], c.Where)
			if c.At != "" {
				fmt.Fprintf(w, " (%s)", c.At)
			}
			fmt.Fprintln(w)
			switch {
			case c.Old == c.New && c.Old != "":
				fmt.Fprintf(w, "      %s\n", c.New)
			default:
				if c.Old != "" {
					fmt.Fprintf(w, "      - %s\n", c.Old)
				}
				if c.New != "" {
					fmt.Fprintf(w, "      + %s\n", c.New)
				}
			}
		}
	}
}
