package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/mongodb-forks/digest"

	"github.com/keywright/keywright/internal/secret"
)

// MediaType is the versioned media type that calls ask for unless told otherwise.
const MediaType = "application/vnd.atlas.2024-08-05+json"

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 32 << 20

// Client calls one server with one API key. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// New makes a client for the server at base (scheme, host and port).
func New(base, publicKey string, privateKey secret.Bytes) *Client {
	rt := http.DefaultTransport.(*http.Transport).Clone()
	rt.Proxy = nil // our own server, most often on this machine
	t := digest.NewTransportWithHTTPRoundTripper(publicKey, string(privateKey.Reveal()), rt)
	return &Client{base: strings.TrimSuffix(base, "/"), http: &http.Client{
		Transport: t, Timeout: time.Minute,
		// The API sends nobody elsewhere; credentials do not follow who does.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Error is the API's error document.
type Error struct {
	Status     int      `json:"error"`
	Code       string   `json:"errorCode"`
	Reason     string   `json:"reason"`
	Detail     string   `json:"detail"`
	Parameters []string `json:"parameters"`
	// Bad names single fields of the request that did not validate.
	Bad Bad `json:"badRequestDetail"`
}

// Bad lists what is wrong with single fields.
type Bad struct {
	Fields []struct {
		Field       string `json:"field"`
		Description string `json:"description"`
	} `json:"fields"`
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s (%d %s)", e.Detail, e.Status, e.Code) }

// Do makes a call and decodes the answer into out, if out is not nil. A refusal
// is an *Error.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	return c.DoVersion(ctx, MediaType, method, path, in, out)
}

// DoVersion is Do with a media type of the caller's choice.
func (c *Client) DoVersion(ctx context.Context, mediaType, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Accept", mediaType)
	if in != nil {
		req.Header.Set("Content-Type", mediaType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("call %s %s: %w", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read answer of %s %s: %w", method, path, err)
	}
	if resp.StatusCode >= 300 {
		e := &Error{Status: resp.StatusCode}
		if json.Unmarshal(b, e) != nil || e.Code == "" {
			e.Code, e.Detail = "UNEXPECTED_ANSWER", fmt.Sprintf("%s %s: %s", method, path, resp.Status)
		}
		return e
	}
	if out == nil || len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("decode answer of %s %s: %w", method, path, err)
	}
	return nil
}
