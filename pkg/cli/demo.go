package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/demo"
)

func (a *app) demoCommand() *cobra.Command {
	var length time.Duration
	var dir string
	c := &cobra.Command{
		Use: "demo", Short: "A whole hospital in one terminal, attackers included", Args: args(),
		Long: `Set up a hospital in a temporary directory (a CA, six devices, a gateway, a FHIR
backend) and let its devices work while four attackers try to get in. Needs
nothing prepared, changes nothing outside, listens on loopback only.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if length < 0 || cmd.Flags().Changed("for") && length == 0 {
				return usagef("demo: --for is not a time to come: %v", length)
			}
			return demo.Run(cmd.Context(), demo.Config{Out: a.out, Color: terminal(a.out), Dir: dir, For: length})
		},
	}
	c.Flags().DurationVar(&length, "for", 0, "how long, once it is set up, such as 20s (default: until Ctrl-C)")
	c.Flags().StringVar(&dir, "keep", "", "an empty directory to keep the hospital in, audit log included")
	return c
}
