package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// defaultConfig is where the configuration is looked for.
const defaultConfig = "/etc/anteroom-agent/anteroom-agent.yaml"

const usage = `anteroom-agent carries a device's connections to an Anteroom gateway.

  anteroom-agent enrol     get the device's certificate for a one-time token
  anteroom-agent check     look at configuration, certificate and gateway
  anteroom-agent run       carry connections, until it is told to end
  anteroom-agent status    what a running agent does
  anteroom-agent version

Every command takes --config FILE (default ` + defaultConfig + `)
and --help.
`

// A command is one of the words after the program's name.
type command struct {
	*flag.FlagSet
	config string
	in     io.Reader
	out    io.Writer
	err    io.Writer
}

// Main runs the command that args name and returns the program's exit code: 0, 1
// if it could not be done, 2 if it could not be understood.
func Main(args []string, in io.Reader, out, errw io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	word := ""
	if len(args) > 0 {
		word, args = args[0], args[1:]
	}
	c := &command{FlagSet: flag.NewFlagSet("anteroom-agent "+word, flag.ContinueOnError), in: in, out: out, err: errw}
	c.SetOutput(errw)
	c.StringVar(&c.config, "config", defaultConfig, "configuration `file`")
	var do func(context.Context) error
	switch word {
	case "enrol":
		do = c.enrol()
	case "check":
		do = c.check()
	case "run":
		do = c.run()
	case "status":
		do = c.status()
	case "version":
		do = c.version
	case "", "help", "-h", "--help":
		fmt.Fprint(out, usage)
		return 0
	default:
		fmt.Fprintf(errw, "anteroom-agent: there is no command %q\n\n%s", word, usage)
		return 2
	}
	switch err := c.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case c.NArg() > 0:
		fmt.Fprintf(errw, "anteroom-agent %s: %q is one word too many\n", word, c.Arg(0))
		return 2
	}
	if err := do(ctx); err != nil {
		fmt.Fprintf(errw, "anteroom-agent: %v\n", err)
		return 1
	}
	return 0
}

func (c *command) version(context.Context) error {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	_, err := fmt.Fprintf(c.out, "anteroom-agent %s\n", version)
	return err
}
