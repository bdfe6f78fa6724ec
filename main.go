// Command keywright is customer-managed encryption keys for MongoDB-compatible
// clusters: control plane, agent, bundled engine and local AWS in one program.
package main

import (
	"os"

	"github.com/keywright/keywright/internal/cli"
)

func main() { os.Exit(cli.Run(os.Args[1:], os.Stdout, os.Stderr)) }
