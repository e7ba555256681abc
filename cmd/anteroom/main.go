// Anteroom is a zero-trust gateway for medical devices: the daemon and the
// operator's commands in one binary. See anteroom help.
package main

import (
	"os"

	"github.com/anteroom-iomt/anteroom/pkg/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
