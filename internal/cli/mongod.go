package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keywright/keywright/internal/engine"
	"github.com/keywright/keywright/internal/engine/wire"
	"github.com/keywright/keywright/internal/keys"
)

func mongodCommand() *cobra.Command {
	var o engine.Options
	var mode, node, key string
	c := &cobra.Command{
		Use: "mongod", Short: "Run a database node of the bundled engine (agents start these)", Args: cobra.NoArgs,
		Long: "Runs one database node with the options of a mongod. It gets its master key over KMIP.\n" +
			"Exit codes: 0 clean, 2 options, 14 data cannot be read or written, 48 port, 62 data of a newer program,\n" +
			"100 anything else, 233 the master key is not to be had or not active any more.",
		RunE: func(c *cobra.Command, _ []string) error {
			o.TLSMode, o.NodeID, o.Encryption.KeyIdentifier = wire.TLSMode(mode), keys.NodeID(node), keys.KeyID(key)
			return engineRun(c, func(ctx context.Context) error { return engine.Run(ctx, o) })
		},
	}
	f := c.Flags()
	f.StringVar(&o.DBPath, "dbpath", "", "data directory")
	f.IntVar(&o.Port, "port", 27017, "port; 0 for any free one")
	f.StringVar(&o.BindIP, "bind_ip", "127.0.0.1", "addresses to listen at, separated by commas")
	f.StringVar(&o.ReplSet, "replSet", "", "name of the replica set")
	f.StringVar(&mode, "tlsMode", "disabled", "disabled, allowTLS, preferTLS or requireTLS")
	f.StringVar(&o.TLSCertificateKeyFile, "tlsCertificateKeyFile", "", "PEM with certificate and private key")
	f.StringVar(&o.TLSCAFile, "tlsCAFile", "", "PEM with the authorities of client certificates")
	f.BoolVar(&o.Auth, "auth", false, "demand logins")
	f.StringVar(&o.LogPath, "logpath", "", "file that the log is appended to; standard error without it")
	f.StringVar(&node, "nodeId", "", "identity of the node: 24 hexadecimal digits")
	encryptionFlags(f, &o.Encryption)
	f.BoolVar(&o.Encryption.Enabled, "enableEncryption", false, "keep all files encrypted")
	f.StringVar(&key, "kmipKeyIdentifier", "", "identifier of an existing master key, for a first start or a rotation")
	f.BoolVar(&o.Encryption.RotateMasterKey, "kmipRotateMasterKey", false, "seal the keyring with a new master key, and exit")
	f.IntVar(&o.Encryption.StatePollingSeconds, "kmipKeyStatePollingSeconds", 900, "time between looks at the master key's state; 0 or less: never")
	c.AddCommand(rewriteCommand())
	return c
}

func encryptionFlags(f *pflag.FlagSet, e *engine.Encryption) {
	f.StringVar(&e.ServerName, "kmipServerName", "", "KMIP servers, separated by commas, tried in order")
	f.IntVar(&e.Port, "kmipPort", 5696, "port of the KMIP servers")
	f.StringVar(&e.ClientCertificateFile, "kmipClientCertificateFile", "", "PEM with private key and certificate for KMIP")
	f.StringVar(&e.ServerCAFile, "kmipServerCAFile", "", "PEM with the authorities of the KMIP servers")
	f.IntVar(&e.ConnectRetries, "kmipConnectRetries", 0, "further rounds over the list of servers")
	f.IntVar(&e.ConnectTimeoutMS, "kmipConnectTimeoutMS", 5000, "bound on one KMIP connection in milliseconds")
}

func rewriteCommand() *cobra.Command {
	var o engine.RewriteOptions
	var node string
	var polling int
	c := &cobra.Command{
		Use: "rewrite", Short: "Write a stopped node's files anew, with or without encryption", Args: cobra.NoArgs,
		Long: "Copies the data of a stopped node into a new directory that is encrypted or not. The source is only read. The\n" +
			"target can be opened only once it is whole, verified and durable.",
		RunE: func(c *cobra.Command, _ []string) error {
			o.NodeID = keys.NodeID(node)
			return engineRun(c, func(ctx context.Context) error { return engine.Rewrite(ctx, o) })
		},
	}
	f := c.Flags()
	f.StringVar(&o.From, "from", "", "data directory of the stopped node")
	f.StringVar(&o.To, "to", "", "new data directory")
	f.StringVar(&node, "nodeId", "", "identity of the node: 24 hexadecimal digits")
	f.BoolVar(&o.FromEncrypted, "fromEncrypted", false, "the source is encrypted")
	f.BoolVar(&o.ToEncrypted, "toEncrypted", false, "encrypt the target")
	encryptionFlags(f, &o.Encryption)
	f.IntVar(&polling, "kmipKeyStatePollingSeconds", 0, "accepted for symmetry with mongod, without effect")
	return c
}

// engineRun turns the engine's errors into exit codes. The engine has logged them.
func engineRun(c *cobra.Command, run func(context.Context) error) error {
	err := run(c.Context())
	var e *engine.ExitError
	if errors.As(err, &e) {
		return exitCode{code: e.Code, err: e.Err}
	}
	return err
}
