// Package server puts the control plane together and runs it: the store, the four
// certificate authorities, the services of control, their reconcilers, the HTTP API
// (which is handed in), and the listener for agents.
//
// Run owns everything that it starts: it returns when all of it has ended. Nothing
// listens before the store is open and the first organization of the init file is
// made; the ready file appears when everything does.
package server
