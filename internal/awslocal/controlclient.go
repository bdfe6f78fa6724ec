package awslocal

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Control calls the control path of a local AWS. Its methods may be called from
// several goroutines; each call ends with its context, after 30 s at most.
type Control struct {
	base   string
	token  string
	client *http.Client
}

// OpenControl reads the control token in a data directory. It fails if no
// server with Config.Control ever ran on it.
func OpenControl(dataDir, endpoint string) (*Control, error) {
	token, err := readControlToken(dataDir)
	if err != nil {
		return nil, fmt.Errorf("open control: %w", err)
	}
	return &Control{base: strings.TrimSuffix(endpoint, "/") + ControlPath, token: token, client: &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true}, Timeout: readTimeout,
	}}, nil
}

// State tells what is set and what time it is in the local AWS.
func (c *Control) State(ctx context.Context) (ControlState, error) {
	var out ControlState
	err := c.call(ctx, http.MethodGet, "state", nil, &out)
	return out, err
}

// SetDelay sets how long changes take until they are seen.
func (c *Control) SetDelay(ctx context.Context, d Delay) error {
	return c.call(ctx, http.MethodPost, "delay", &controlRequest{Delay: &d}, nil)
}

// MoveTime moves the time in the local AWS by whole seconds, forward or back.
func (c *Control) MoveTime(ctx context.Context, d time.Duration) error {
	seconds := int64(d / time.Second)
	return c.call(ctx, http.MethodPost, "time", &controlRequest{MoveSeconds: &seconds}, nil)
}

// Inject adds a fault and gives its id.
func (c *Control) Inject(ctx context.Context, f Fault) (string, error) {
	var out struct {
		ID string `json:"id"`
	}
	err := c.call(ctx, http.MethodPost, "faults", &controlRequest{Fault: &f}, &out)
	return out.ID, err
}

// Remove takes one fault away.
func (c *Control) Remove(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "faults/"+id, nil, nil)
}

// Clear takes all faults away.
func (c *Control) Clear(ctx context.Context) error {
	return c.call(ctx, http.MethodDelete, "faults", nil, nil)
}

func (c *Control) call(ctx context.Context, method, path string, in *controlRequest, out any) error {
	body := []byte{}
	if in != nil {
		in.Version = controlVersion
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("control %s: %w", path, err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("control %s: %w", path, err)
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	answer, err := c.client.Do(r)
	if err != nil {
		return fmt.Errorf("control %s: %w", path, err)
	}
	defer func() { _ = answer.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	if err != nil {
		return fmt.Errorf("control %s: %w", path, err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("control %s: status %d: %.500s", path, answer.StatusCode, bytes.TrimSpace(raw))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("control %s: %w", path, err)
	}
	return nil
}
