package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/client"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/up"
)

// bootstrapVariable names the bootstrap file for commands without --bootstrap.
const bootstrapVariable = "KEYWRIGHT_BOOTSTRAP"

const (
	// ownAPI and atlasAPI are the prefixes of the API's calls.
	ownAPI   = "/api/keywright/v1"
	atlasAPI = "/api/atlas/v2"
)

// apiFlags are how a command reaches the HTTP API and how it prints the answer.
type apiFlags struct {
	base, publicFile, privateFile, bootstrap, output string
}

func (f *apiFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.bootstrap, "bootstrap", "", "bootstrap.json of `keywright up`: address and API key (default $"+bootstrapVariable+", then the one in the user's data directory)")
	c.Flags().StringVar(&f.base, "base-url", "", "address of the API (default: the bootstrap file's, else "+defaultBase+")")
	c.Flags().StringVar(&f.publicFile, "public-key-file", "", "file with the public key of an API key, instead of the bootstrap file's")
	c.Flags().StringVar(&f.privateFile, "private-key-file", "", "file with its private key")
	c.Flags().StringVarP(&f.output, "output", "o", "text", "text, or json: the API's answer")
}

const defaultBase = "http://127.0.0.1:8080"

// client makes the client that the flags describe. It is called before anything else
// of a command: it refuses wrong flags.
func (f *apiFlags) client() (*client.Client, error) {
	if f.output != "text" && f.output != "json" {
		return nil, usageError{fmt.Errorf("--output %q: text or json", f.output)}
	}
	if f.publicFile == "" && f.privateFile == "" {
		return f.fromBootstrap()
	}
	public, err := keyFile("--public-key-file", f.publicFile)
	if err != nil {
		return nil, err
	}
	private, err := keyFile("--private-key-file", f.privateFile)
	if err != nil {
		return nil, err
	}
	base := defaultBase
	if f.base != "" {
		base = f.base
	}
	return client.New(base, string(public.Reveal()), private), nil
}

// fromBootstrap makes the client of what `keywright up` started.
func (f *apiFlags) fromBootstrap() (*client.Client, error) {
	path, err := f.bootstrapFile()
	if err != nil {
		return nil, err
	}
	var b up.Bootstrap
	if err := durable.ReadJSON(path, &b); err != nil {
		return nil, fmt.Errorf("bootstrap file: %w\nhint: it is there while `keywright up` runs", err)
	}
	switch {
	case b.Version > up.BootstrapVersion:
		return nil, fmt.Errorf("bootstrap file %s has version %d, this program knows %d: update this program", path, b.Version, up.BootstrapVersion)
	case b.BaseURL == "" || b.PublicKey == "" || b.PrivateKey == "":
		return nil, fmt.Errorf("bootstrap file %s has no address or no API key: it is not one of `keywright up`", path)
	}
	base := b.BaseURL
	if f.base != "" {
		base = f.base
	}
	return client.New(base, b.PublicKey, secret.FromString(b.PrivateKey)), nil
}

// bootstrapFile finds the bootstrap file: the flag's, the environment's, or the one
// that `keywright up` writes without flags.
func (f *apiFlags) bootstrapFile() (string, error) {
	if f.bootstrap != "" {
		return f.bootstrap, nil
	}
	if p := os.Getenv(bootstrapVariable); p != "" {
		return p, nil
	}
	if dir, err := userDataDir(); err == nil {
		p := filepath.Join(dir, "bootstrap.json")
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", usageError{errors.New("no API key: give --bootstrap FILE (of `keywright up`), or --public-key-file and --private-key-file")}
}

// keyFile reads a short text; secrets never stand on a command line.
func keyFile(flag, path string) (secret.Bytes, error) {
	if path == "" {
		return secret.Bytes{}, usageError{fmt.Errorf("%s is needed", flag)}
	}
	b, err := os.ReadFile(path) //nolint:gosec // named by the operator
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("%s: %w", flag, err)
	}
	defer clear(b)
	text := bytes.TrimSpace(b)
	if len(text) == 0 {
		return secret.Bytes{}, fmt.Errorf("%s: %s is empty", flag, path)
	}
	return secret.Copy(text), nil
}

// projectRef is a project that was named on a command line.
type projectRef struct {
	ID    keys.ProjectID `json:"id"`
	OrgID keys.OrgID     `json:"orgId"`
	Name  string         `json:"name"`
}

// path is the path of one of the project's calls of Keywright's own API.
func (p projectRef) path(rest string) string { return ownAPI + "/groups/" + string(p.ID) + rest }

// project finds the project that is named by id or by name.
func (f *apiFlags) project(ctx context.Context, cl *client.Client, named string) (projectRef, error) {
	var p projectRef
	if keys.ValidID(named) {
		err := cl.Do(ctx, http.MethodGet, atlasAPI+"/groups/"+named, nil, &p)
		if err == nil || !isStatus(err, http.StatusNotFound) {
			return p, wrap("find project", err)
		}
	}
	err := cl.Do(ctx, http.MethodGet, atlasAPI+"/groups/byName/"+url.PathEscape(named), nil, &p)
	return p, wrap("find project "+named, err)
}

// organization gives the organization that a flag names, or the only one that the API
// key sees.
func (f *apiFlags) organization(ctx context.Context, cl *client.Client, named string) (string, error) {
	if named != "" {
		return url.PathEscape(named), nil
	}
	var all struct {
		Results []struct {
			ID string `json:"id"`
		} `json:"results"`
	}
	if err := cl.Do(ctx, http.MethodGet, atlasAPI+"/orgs", nil, &all); err != nil {
		return "", fmt.Errorf("find organization: %w", err)
	}
	if len(all.Results) != 1 {
		return "", usageError{fmt.Errorf("the API key sees %d organizations: name one with --org-id", len(all.Results))}
	}
	return all.Results[0].ID, nil
}

// answer is an API's answer: as it came, and decoded.
type answer[T any] struct {
	raw   json.RawMessage
	value T
}

// ask makes one call.
func ask[T any](ctx context.Context, cl *client.Client, method, path string, in any) (answer[T], error) {
	var a answer[T]
	if err := cl.Do(ctx, method, path, in, &a.raw); err != nil {
		return a, err
	}
	if len(a.raw) == 0 {
		return a, nil
	}
	if err := json.Unmarshal(a.raw, &a.value); err != nil {
		return a, fmt.Errorf("decode answer of %s %s: %w", method, path, err)
	}
	return a, nil
}

// maxPages bounds how many pages of a list are fetched.
const maxPages = 1000

// askAll fetches all pages of a list. raw is the array of all results.
func askAll[T any](ctx context.Context, cl *client.Client, path string) (answer[[]T], error) {
	out := answer[[]T]{}
	all := []json.RawMessage{}
	for page := 1; page <= maxPages; page++ {
		var got struct {
			Results []json.RawMessage `json:"results"`
		}
		if err := cl.Do(ctx, http.MethodGet, fmt.Sprintf("%s?itemsPerPage=500&pageNum=%d", path, page), nil, &got); err != nil {
			return out, err
		}
		all = append(all, got.Results...)
		if len(got.Results) < 500 {
			break
		}
	}
	for _, raw := range all {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return out, fmt.Errorf("decode answer of GET %s: %w", path, err)
		}
		out.value = append(out.value, v)
	}
	b, err := json.Marshal(all)
	out.raw = b
	return out, err
}

func isStatus(err error, status int) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Status == status
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
