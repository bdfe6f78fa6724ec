package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/durable"
)

const accessKeysFormat = 1

// accessKeys holds the secrets of the access keys of migrated projects, by access key id,
// in a file of their own (0600, as AWS's credentials files are), so that the host restarts
// without the control plane. The file goes when no configuration names an access key.
type accessKeys struct {
	Format  int               `json:"format"`
	Secrets map[string]string `json:"secrets"`
}

func readAccessKeys(path string) (map[string]string, error) {
	var f accessKeys
	err := durable.ReadJSON(path, &f)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil //nolint:nilnil // there are none
	case err != nil:
		return nil, err
	case f.Format > accessKeysFormat:
		return nil, fmt.Errorf("stored access keys: %w", agentlink.ErrVersion)
	}
	return f.Secrets, nil
}

func writeAccessKeys(path string, secrets map[string]string) error {
	if len(secrets) > 0 {
		return durable.WriteJSON(path, accessKeys{Format: accessKeysFormat, Secrets: secrets}, 0o600)
	}
	if err := durable.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// eachKey visits every way to a customer key in a desired state, to read or to change it.
func eachKey(d *agentlink.Desired, visit func(*agentlink.CustomerKey)) {
	for i := range d.Projects {
		p := &d.Projects[i]
		if p.CustomerKey != nil {
			visit(p.CustomerKey)
		}
		if p.Candidate != nil {
			visit(&p.Candidate.CustomerKey)
		}
		for j := range p.Retained {
			visit(&p.Retained[j])
		}
	}
}

// secretsOf collects the secrets in a desired state.
func secretsOf(d agentlink.Desired) map[string]string {
	out := map[string]string{}
	eachKey(&d, func(k *agentlink.CustomerKey) {
		if k.SecretAccessKey != "" {
			out[k.AccessKeyID] = k.SecretAccessKey
		}
	})
	return out
}

// keepSecrets writes the secrets of the states that a start may find: the one that is in
// force and the one that is about to be.
func (w *wishes) keepSecrets(states ...agentlink.Desired) error {
	now := map[string]string{}
	for _, d := range states {
		maps.Copy(now, secretsOf(d))
	}
	if maps.Equal(now, w.secrets) {
		return nil
	}
	if err := writeAccessKeys(w.secretsPath, now); err != nil {
		return err
	}
	w.secrets = now
	return nil
}

// restoreSecrets brings the secrets on disk back into the state that was read from it.
func (w *wishes) restoreSecrets() (err error) {
	if w.secrets, err = readAccessKeys(w.secretsPath); err != nil {
		return err
	}
	eachKey(&w.current, func(k *agentlink.CustomerKey) {
		if k.AccessKeyID != "" {
			k.SecretAccessKey = w.secrets[k.AccessKeyID]
		}
	})
	return nil
}

// hideAccessKeys empties the secrets in copies of all ways to customer keys; projects
// itself is the caller's own.
func hideAccessKeys(projects []agentlink.Project) {
	for i := range projects {
		p := &projects[i]
		if p.CustomerKey != nil {
			k := *p.CustomerKey
			p.CustomerKey = &k
		}
		if p.Candidate != nil {
			c := *p.Candidate
			p.Candidate = &c
		}
		p.Retained = slices.Clone(p.Retained)
	}
	eachKey(&agentlink.Desired{Projects: projects}, func(k *agentlink.CustomerKey) { k.SecretAccessKey = "" })
}
