package cli

import (
	"github.com/spf13/cobra"
)

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Write, try and roll out policy sets",
		a.policyCheckCommand(), a.policyTestCommand(), a.policyDocsCommand(),
		a.policyEvalCommand(), a.policyExplainCommand(), a.policyReplayCommand(), a.policySuggestCommand(),
		a.policyBuildCommand(), a.policyPushCommand(), a.policyPullCommand(), a.policyHistoryCommand(),
		a.policyRollBackCommand(), a.policyPromoteCommand(), a.policyDiffCommand(), a.policyStatusCommand())
}

// policyDir returns the directory a command is to look at.
func (a *app) policyDir(arg []string) (string, error) {
	if len(arg) > 0 {
		return arg[0], nil
	}
	cfg, err := a.load()
	if err != nil {
		return "", err
	}
	return cfg.Policy.Enforce, nil
}
