// Package drivertest lets a test binary stand in for the program: started again with
// the command line of a node, it is one. Only tests import it.
package drivertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/keywright/keywright/internal/engine"
	"github.com/keywright/keywright/internal/engine/wire"
	"github.com/keywright/keywright/internal/keys"
)

// Main runs a node of the bundled engine and ends the process, if the command line
// is that of one. A TestMain calls it first.
func Main() {
	if len(os.Args) < 2 || os.Args[1] != "mongod" {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, os.Args[2:])
	stop()
	var e *engine.ExitError
	switch {
	case errors.As(err, &e):
		os.Exit(e.Code)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(engine.ExitBadOptions)
	}
	os.Exit(0)
}

func run(ctx context.Context, args []string) error {
	rewrite := args[0] == "rewrite"
	if rewrite {
		args = args[1:]
	}
	o := options{}
	for i := 0; i < len(args); i++ {
		name, value, ok := strings.Cut(strings.TrimPrefix(args[i], "--"), "=")
		switch {
		case ok:
		case name == "auth" || name == "enableEncryption":
			value = "true"
		case i+1 < len(args):
			i++
			value = args[i]
		}
		o[name] = value
	}
	encryption := engine.Encryption{
		Enabled: o["enableEncryption"] != "", ServerName: o["kmipServerName"], Port: o.number("kmipPort"),
		ClientCertificateFile: o["kmipClientCertificateFile"], ServerCAFile: o["kmipServerCAFile"],
		StatePollingSeconds: o.number("kmipKeyStatePollingSeconds"), ConnectTimeoutMS: 5000,
	}
	if rewrite {
		if o["toEncrypted"] == "true" && os.Getenv("KEYWRIGHT_TEST_HANG_REWRITE") != "" {
			return hang(ctx, o["from"])
		}
		return engine.Rewrite(ctx, engine.RewriteOptions{
			From: o["from"], To: o["to"], NodeID: keys.NodeID(o["nodeId"]), FromEncrypted: o["fromEncrypted"] == "true",
			ToEncrypted: o["toEncrypted"] == "true", Encryption: encryption,
		})
	}
	return engine.Run(ctx, engine.Options{
		DBPath: o["dbpath"], Port: o.number("port"), BindIP: o["bind_ip"], ReplSet: o["replSet"], Auth: o["auth"] != "",
		TLSMode: wire.TLSMode(o["tlsMode"]), TLSCertificateKeyFile: o["tlsCertificateKeyFile"], TLSCAFile: o["tlsCAFile"],
		NodeID: keys.NodeID(o["nodeId"]), LogPath: o["logpath"], Encryption: encryption, AfterStep: killAfter,
	})
}

// killAfter kills the node itself after a step that a test has named in the file
// KEYWRIGHT_TEST_KILL_FILE, once.
func killAfter(step string) {
	path := os.Getenv("KEYWRIGHT_TEST_KILL_FILE")
	if b, err := os.ReadFile(path); err != nil || string(b) != step { //nolint:gosec // a test's own file
		return
	}
	_ = os.Remove(path) //nolint:gosec // a test's own file
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

type options map[string]string

func (o options) number(name string) int {
	n, _ := strconv.Atoi(o[name]) // absent: 0
	return n
}

// hang is a rewrite that holds the files' lock and gets nowhere.
func hang(ctx context.Context, dir string) error {
	f, err := os.OpenFile(dir+"/mongod.lock", os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // a test's own directory
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}
