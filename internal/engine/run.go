package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keywright/keywright/internal/engine/command"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/wire"
)

// The patience at the end: for requests in hand, and for writers.
const (
	drainLimit = 5 * time.Second
	closeLimit = 10 * time.Second
)

// Run is the whole process `keywright mongod`, until ctx ends or the shutdown
// command comes. Errors are *ExitError.
func Run(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return exit(ExitBadOptions, err)
	}
	o, err := o.absolute()
	if err != nil {
		return exit(ExitBadOptions, err)
	}
	log, closeLog, err := openLog(o)
	if err != nil {
		return exit(ExitBadOptions, err)
	}
	defer closeLog()
	harden(log)
	err = run(ctx, o, log)
	if err != nil {
		log.Error("node ends", "error", err)
	} else {
		log.Info("node ends")
	}
	return classify(err)
}

// classify gives every error an exit code.
func classify(err error) error {
	var e *ExitError
	if err == nil || errors.As(err, &e) {
		return err
	}
	return exit(ExitUncaught, err)
}

func openLog(o Options) (*slog.Logger, func(), error) {
	out, closer := os.Stderr, func() {}
	if o.LogPath != "" {
		f, err := os.OpenFile(o.LogPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("--logpath: %w", err)
		}
		out, closer = f, func() { _ = f.Close() }
	}
	return slog.New(slog.NewJSONHandler(out, nil)).With("node", string(o.NodeID)), closer, nil
}

func run(ctx context.Context, o Options, log *slog.Logger) error {
	unlock, err := lockDir(o.DBPath)
	if err != nil {
		return exit(ExitUnrecoverable, err)
	}
	defer unlock()
	log.Info("node starts", "pid", os.Getpid(), "port", o.Port, "encrypted", o.Encryption.Enabled)
	data, err := openFiles(ctx, o.DBPath, o.NodeID, o.Encryption, log)
	if err != nil {
		return err
	}
	defer data.close()
	fatal := make(chan string, 1)
	replica, err := replication.Open(ctx, replication.Config{
		Dir: o.DBPath, Node: o.NodeID, Files: data.files, Logger: log,
		OnFatal: func(msg string) {
			// Nothing that was acknowledged is lost by ending at once: the log is the
			// truth, and the next start replays it.
			log.Error("node cannot go on", "reason", msg)
			select {
			case fatal <- msg:
			default:
			}
			time.AfterFunc(time.Second, func() { os.Exit(ExitUnrecoverable) })
		},
	})
	if err != nil {
		return exit(ExitUnrecoverable, err)
	}
	switch st := replica.Status(); {
	case st.Set != "" && st.Set != o.ReplSet:
		err = exit(ExitBadOptions, fmt.Errorf("--replSet: the data belong to the set %q, not to %q", st.Set, o.ReplSet))
	case o.Encryption.RotateMasterKey:
		// After the catalogue has confirmed the keyring's generation: it allows one
		// that is newer than it knows, not two.
		err = rotate(ctx, o, data, log)
	default:
		return serve(ctx, o, data, replica, fatal, log)
	}
	return errors.Join(err, exit(ExitUnrecoverable, closeReplica(ctx, replica)))
}

// closeReplica ends the data's life in this process, whatever ended the node.
func closeReplica(ctx context.Context, replica *replication.Replica) error {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	return replica.Close(end)
}

// rotate seals the keyring with a new master key and ends.
func rotate(ctx context.Context, o Options, data *opened, log *slog.Logger) error {
	mk, err := newMasterKey(ctx, o.Encryption.KeyIdentifier, data.source)
	if err != nil {
		return exit(ExitKey, err)
	}
	defer mk.Key.Wipe()
	if err := data.keyring.Rewrap(mk); err != nil {
		return exit(ExitUnrecoverable, fmt.Errorf("rotate master key: %w", err))
	}
	log.Info("master key rotated", "master_key", mk.ID)
	return nil
}

// listen opens the ports; the first tells which one a port of 0 became.
func listen(o Options) ([]net.Listener, error) {
	var out []net.Listener
	port := o.Port
	for _, ip := range strings.Split(o.BindIP, ",") {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
		if err != nil {
			for _, open := range out {
				_ = open.Close()
			}
			return nil, fmt.Errorf("listen: %w", err)
		}
		port = l.Addr().(*net.TCPAddr).Port
		out = append(out, l)
	}
	return out, nil
}

// serve answers clients until something ends it, and closes everything in order.
func serve(ctx context.Context, o Options, data *opened, replica *replication.Replica, fatal chan string, log *slog.Logger) (err error) {
	var certificates *wire.Certificates
	if o.TLSMode != wire.TLSDisabled {
		// Clients prove themselves with a login; a certificate is looked at if shown.
		certificates, err = wire.LoadCertificates(wire.TLSFiles{CertificateKey: o.TLSCertificateKeyFile, CA: o.TLSCAFile}, log)
		if err != nil {
			return errors.Join(exit(ExitBadOptions, err), closeReplica(ctx, replica))
		}
	}
	listeners, err := listen(o)
	if err != nil {
		return errors.Join(exit(ExitNetwork, err), closeReplica(ctx, replica))
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var port *wire.Server
	sets := newKeysets(o, data, replica, fatal, log)
	commands := command.NewServer(command.Config{
		Node: replica, Auth: o.Auth, Set: o.ReplSet, Host: o.host(listeners[0].Addr().(*net.TCPAddr).Port), TLS: certificates != nil,
		Logger: log, Stop: stop, RotateMasterKey: newRotator(o, data, replica, fatal, log).command(), Keysets: sets.command(),
		Connections: func() int { return port.Connections() },
	})
	port = wire.NewServer(wire.ServerConfig{Handler: commands, Mode: o.TLSMode, Certificates: certificates, Logger: log})
	var g errgroup.Group
	for _, l := range listeners {
		g.Go(func() error { return port.Serve(l) })
	}
	g.Go(func() error {
		defer stop()
		return watchKey(ctx, data, time.Duration(o.Encryption.StatePollingSeconds)*time.Second, log)
	})
	log.Info("node serves", "port", listeners[0].Addr().(*net.TCPAddr).Port)
	var failure error
	select {
	case <-ctx.Done():
	case msg := <-fatal:
		failure = exit(ExitUnrecoverable, errors.New(msg))
	}
	stop()
	commands.Drain()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer cancel()
	if err := port.Shutdown(end); err != nil {
		log.Warn("connections were cut", "error", err)
	}
	commands.Close()
	sets.close()
	return errors.Join(failure, g.Wait(), exit(ExitUnrecoverable, closeReplica(ctx, replica)))
}
