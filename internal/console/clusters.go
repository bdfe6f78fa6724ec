package console

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/store"
)

// clusterCard is a cluster on a page.
type clusterCard struct {
	chip
	Name, To, Size, Version, Connection string
	// YourKey tells whether the project's customer key protects it.
	YourKey bool
	// Nodes are "up", "work", "stopped" or "silent"; Up counts the first.
	Nodes []string
	Up    int
	// Why says what a node's host reports, where that is not what it should be.
	Why string
}

// NodeWords says how many nodes are up.
func (c clusterCard) NodeWords() string { return fmt.Sprintf("%d of %d up", c.Up, len(c.Nodes)) }

// NodeX is where a node's block is drawn.
func NodeX(i int) string { return fmt.Sprint(13*i + 1) }

// Width is that of all blocks.
func (c clusterCard) Width() string { return fmt.Sprint(max(13*len(c.Nodes)-1, 1)) }

func card(v cluster.View) clusterCard {
	out := clusterCard{
		Name: v.Name, To: "/projects/" + string(v.Project) + "/clusters#" + v.Name, Version: v.Settings.MongoDBMajorVersion,
		Connection: v.ConnectionString, YourKey: v.Settings.EncryptionProvider == cluster.ProviderAWS, chip: clusterChip(v),
	}
	if s := v.Settings.Specs; len(s) > 0 && len(s[0].Regions) > 0 && s[0].Regions[0].Electable != nil {
		out.Size = s[0].Regions[0].Electable.InstanceSize
	}
	for _, n := range v.Nodes {
		state := nodeState(agentlink.Phase(n.Status.Phase))
		if state == "up" {
			out.Up++
		} else if n.Status.Message != "" && out.Why == "" {
			out.Why = n.Status.Message
		}
		out.Nodes = append(out.Nodes, state)
	}
	return out
}

func nodeState(p agentlink.Phase) string {
	switch p {
	case agentlink.PhaseRunning:
		return "up"
	case agentlink.PhaseCreating, agentlink.PhaseStarting, agentlink.PhaseRewriting:
		return "work"
	case agentlink.PhaseStopped, agentlink.PhaseStoppedByCustody:
		return "stopped"
	}
	return "silent"
}

func clusterChip(v cluster.View) chip {
	rotating := v.Rotation != nil && v.Rotation.State == "RUNNING"
	switch {
	case v.Deleting:
		return chip{"info", "arrows", "Terminating"}
	case v.Stopped != "":
		return chip{"danger", "square", "Stopped"}
	case v.Settings.Paused:
		return chip{"neutral", "pause", "Paused"}
	case v.Converting != "":
		return chip{"info", "arrows", "Encrypting"}
	case rotating:
		return chip{"info", "arrows", "Rotating"}
	case v.State == cluster.Creating:
		return chip{"info", "arrows", "Creating"}
	case v.State == cluster.Idle:
		return chip{"ok", "play", "Running"}
	case v.State == cluster.Repairing:
		return chip{"warn", "cloud-off", "Repairing"}
	}
	return chip{"info", "arrows", "Updating"}
}

// severity sorts the worst first.
func severity(tone string) int {
	return slices.Index([]string{"solid", "danger", "suspect", "warn", "info", "ok", "neutral", "none"}, tone)
}

func sortCards(cs []clusterCard) {
	slices.SortStableFunc(cs, func(a, b clusterCard) int {
		return cmp.Or(cmp.Compare(severity(a.Tone), severity(b.Tone)), cmp.Compare(a.Name, b.Name))
	})
}

// projectCard is a project with its key and clusters.
type projectCard struct {
	store.Project
	Verdict  verdict
	Clusters []clusterCard
}

// figure is one number at the top of a page.
type figure struct{ Name, Value string }

func keyWords(yours bool) string { return keyChip(yours).Word }

func keyChip(yours bool) chip {
	if yours {
		return chip{"none", "key", "Your key"}
	}
	return chip{"none", "dashed", "No customer key"}
}

// connectReason says why there is nothing to connect to.
func connectReason(c clusterCard) string {
	if c.Word == "Stopped" {
		return "The cluster is stopped."
	}
	return "The cluster is not ready."
}

// mongosh is a command that can be pasted once its words in capitals are replaced.
func mongosh(c clusterCard) string {
	return "mongosh '" + c.Connection + "' --tlsCAFile CA.PEM --username USERNAME"
}
