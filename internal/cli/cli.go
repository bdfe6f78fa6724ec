package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/secret"
)

// version is set when the program is built for a release.
var version = "dev" //nolint:gochecknoglobals // set by the linker

// Run runs a command line and gives the exit code. A SIGINT or SIGTERM ends the
// command in order; a second one at once.
func Run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal has its default effect
	root := &cobra.Command{
		Use: "keywright", Short: "Customer-managed encryption keys for MongoDB-compatible clusters",
		Long: "Keywright gives self-hosted MongoDB-compatible clusters customer-managed encryption keys with AWS KMS,\n" +
			"through an IAM role that the customer can take back at any time. Start with `keywright up`.",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(upCommand(), serverCommand(), agentCommand(), mongodCommand(), awslocalCommand(), auditCommand(), alertCommand(), keyCommand(), hostCommand(), projectCommand(), ipAddressesCommand(), versionCommand())
	root.AddCommand(roleCommand(), doctorCommand())
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w\nhint: see `%s --help`", err, c.CommandPath())}
	})
	err := root.ExecuteContext(ctx)
	var code exitCode
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		if code.err != nil {
			_, _ = fmt.Fprintf(stderr, "error: %s\n", explain(code.err))
		}
		return code.code
	case errors.As(err, &usage), wrongWords(err):
		_, _ = fmt.Fprintf(stderr, "error: %v\n", err)
		return 2
	}
	_, _ = fmt.Fprintf(stderr, "error: %s\n", explain(err))
	return 1
}

// wrongWords recognizes what cobra says of words that it does not know; it gives
// these errors no type.
func wrongWords(err error) bool {
	for _, p := range []string{"unknown command ", "accepts ", "requires at least ", "required flag(s) ", "if any flags in the group "} {
		if strings.HasPrefix(err.Error(), p) {
			return true
		}
	}
	return false
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

// exitCode ends the program with a code of the command's own.
type exitCode struct {
	code int
	err  error
}

// Error implements error.
func (e exitCode) Error() string { return fmt.Sprintf("exit code %d: %v", e.code, e.err) }

// Unwrap gives the cause.
func (e exitCode) Unwrap() error { return e.err }

// logger writes JSON lines to standard error, as the long-running commands do.
func logger(c *cobra.Command) *slog.Logger {
	return slog.New(slog.NewJSONHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// protect keeps the memory of a process that sees secrets out of core dumps.
func protect(log *slog.Logger) {
	if err := secret.ProtectProcess(); err != nil {
		log.Warn("process memory is not fully protected", "error", err)
	}
}

// clobber starts this very process anew, with its process id, so that the memory of
// freed objects is overwritten; the runtime takes that setting only at its start. The
// agent does so: libraries that it speaks to AWS with leave copies of keys behind.
func clobber() error {
	const setting = "clobberfree=1"
	have := os.Getenv("GODEBUG")
	if slices.Contains(strings.Split(have, ","), setting) {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	env := append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GODEBUG=") }),
		"GODEBUG="+strings.TrimPrefix(have+","+setting, ","))
	return fmt.Errorf("start with freed memory overwritten: %w", syscall.Exec(exe, os.Args, env)) //nolint:gosec // ourselves
}

// executable is the path of this program, for starting parts of itself.
func executable() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return filepath.EvalSymlinks(exe)
}

// absolute makes a data directory's path absolute.
func absolute(dir string) (string, error) {
	if dir == "" {
		return "", usageError{errors.New("--data-dir is needed")}
	}
	return filepath.Abs(dir)
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the program's version", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "keywright "+build())
			return err
		},
	}
}

// build names the version, and for a development build the revision.
func build() string {
	if version != "dev" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return version + "+" + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return version
}
