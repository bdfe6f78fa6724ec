// Package escrow exports the wrapped keys that the control plane keeps for its hosts.
package escrow
