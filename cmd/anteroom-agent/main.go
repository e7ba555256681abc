// Anteroom-agent stands in front of a device that cannot speak TLS, and carries
// its connections to an Anteroom gateway. See anteroom-agent help.
package main

import (
	"os"

	"github.com/anteroom-iomt/anteroom/pkg/agent"
)

func main() { os.Exit(agent.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
