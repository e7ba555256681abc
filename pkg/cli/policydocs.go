package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

func (a *app) policyDocsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "docs [DIR]", Short: "Describe a policy set: its rules, the controls they serve, its classes", Args: optional,
		Long: `Write a description of a policy set in Markdown, made from the METADATA of its
rules and from its data: what allows, what denies, which control of HIPAA or NIST
800-53 each rule serves, and what each class of devices may do.`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			dir, err := a.policyDir(arg)
			if err != nil {
				return err
			}
			d, err := policy.Describe(cmd.Context(), dir, policy.Options{})
			if err != nil {
				return err
			}
			return a.print(d, func(w io.Writer) { printDescription(w, d) })
		},
	}
}

// chapters are the headings that rules come under, by name.
var chapters = []struct{ rule, title string }{
	{"allow", "What allows"},
	{"deny", "What denies"},
	{"obligations", "What obliges"},
	{"", "How it comes together"},
}

func printDescription(w io.Writer, d *policy.Description) {
	fmt.Fprintf(w, "# Policy set %s\n\nRevision `%s`. A transaction is allowed if something below allows it and nothing denies it.\n", d.Dir, d.Revision)
	for _, ch := range chapters {
		heading := "\n## " + ch.title + "\n"
		for _, r := range d.Rules {
			known := slices.ContainsFunc(chapters[:3], func(c struct{ rule, title string }) bool { return c.rule == r.Name })
			if r.Name != ch.rule && (ch.rule != "" || known) {
				continue
			}
			fmt.Fprint(w, heading)
			heading = ""
			printRule(w, &r)
		}
	}
	fmt.Fprint(w, "\n## Controls\n\n| control | rules |\n|---|---|\n")
	for _, c := range slices.Sorted(maps.Keys(d.Controls)) {
		var names []string
		for _, i := range d.Controls[c] {
			names = append(names, label(&d.Rules[i]))
		}
		fmt.Fprintf(w, "| %s | %s |\n", c, strings.Join(names, "<br>"))
	}
	fmt.Fprint(w, "\n## Classes\n")
	for _, c := range d.Classes {
		fmt.Fprintf(w, "\n### %s\n\n", c.Name)
		if c.Title != "" {
			fmt.Fprintf(w, "%s.\n\n", c.Title)
		}
		for _, g := range c.Grants {
			fmt.Fprintf(w, "- %s\n", g)
		}
	}
}

// label is what a rule is called where there is little room.
func label(r *policy.RuleDescription) string {
	switch {
	case r.Title != "":
		return r.Title
	case r.Sentence != "":
		return r.Sentence
	}
	return r.Name
}

func printRule(w io.Writer, r *policy.RuleDescription) {
	fmt.Fprintf(w, "\n### %s\n\n", label(r))
	if r.Sentence != "" && r.Title != "" {
		fmt.Fprintf(w, "> %s\n\n", r.Sentence)
	}
	if r.Description != "" {
		fmt.Fprintf(w, "%s\n\n", r.Description)
	}
	code := func(ss []string) string { return "`" + strings.Join(ss, "`, `") + "`" }
	fmt.Fprintf(w, "- written in %s\n", strings.Join(r.At, ", "))
	if len(r.Reads) > 0 {
		fmt.Fprintf(w, "- reads %s\n", code(r.Reads))
	}
	if len(r.Data) > 0 {
		fmt.Fprintf(w, "- by the data in %s\n", code(r.Data))
	}
	if len(r.Controls) > 0 {
		fmt.Fprintf(w, "- serves %s\n", strings.Join(r.Controls, "; "))
	}
}
