package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// printList prints rows as a table below its headings, or says that there are none; in
// JSON none are an empty list, which programs take for what it is.
func printList[T any](a *app, rows []T, none string, headings []string, cells func(row T) []string) error {
	if rows == nil {
		rows = []T{}
	}
	return a.print(rows, func(w io.Writer) {
		if len(rows) == 0 {
			fmt.Fprintln(w, none)
			return
		}
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, strings.Join(headings, "\t"))
		for _, r := range rows {
			fmt.Fprintln(tw, strings.Join(cells(r), "\t"))
		}
		tw.Flush()
	})
}
