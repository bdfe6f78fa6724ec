package console

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/store"
)

// projectCardOf gathers what a page shows of a project.
func (v *visit) projectCardOf(p store.Project, key cmk.View) (projectCard, error) {
	out := projectCard{Project: p, Verdict: present(key, v.now())}
	all, err := v.cfg.Cluster.List(v.ctx(), v.who, p.ID)
	for _, c := range all {
		out.Clusters = append(out.Clusters, card(c))
	}
	sortCards(out.Clusters)
	return out, err
}

// allClusters shows the projects of an organization with their clusters, worst first.
func (v *visit) allClusters() error {
	s, err := v.orgShell("All clusters", v.org())
	if err != nil {
		return err
	}
	var cards []projectCard
	for _, p := range s.Projects {
		key, err := v.cfg.CMK.Peek(v.ctx(), v.who, p.ID)
		if err != nil {
			return err
		}
		c, err := v.projectCardOf(p, key)
		if err != nil {
			return err
		}
		cards = append(cards, c)
	}
	slices.SortStableFunc(cards, func(a, b projectCard) int {
		return cmp.Or(cmp.Compare(severity(a.Verdict.Tone), severity(b.Verdict.Tone)), cmp.Compare(a.Name, b.Name))
	})
	return v.render(clustersPage(s, figures(cards, v.now()), cards))
}

// figures are the numbers of All clusters and Overview.
func figures(cards []projectCard, now time.Time) []figure {
	running, all, open, configured := 0, 0, 0, 0
	var next time.Time
	for _, c := range cards {
		for _, k := range c.Clusters {
			all++
			if k.Up > 0 && k.Up == len(k.Nodes) {
				running++
			}
		}
		if c.Verdict.Tone == "none" {
			continue
		}
		configured++
		if c.Verdict.Tone == "ok" {
			open++
		}
		if n := c.Verdict.Next; !n.IsZero() && (next.IsZero() || n.Before(next)) {
			next = n
		}
	}
	return []figure{
		{"Clusters running", fmt.Sprintf("%d of %d", running, all)},
		{"Keys that open", fmt.Sprintf("%d of %d", open, configured)},
		{"Next key check", until(next, now)},
	}
}

func (v *visit) overview() error {
	s, key, err := v.projectShell("Overview")
	if err != nil {
		return err
	}
	c, err := v.projectCardOf(*s.Project, key)
	if err != nil {
		return err
	}
	events, _, err := v.cfg.Tenant.ProjectEvents(v.ctx(), v.who, s.Project.ID, store.EventFilter{Limit: 5})
	if err != nil {
		return err
	}
	return v.render(overviewPage(s, figures([]projectCard{c}, v.now()), c, rows(events)))
}

func (v *visit) deployments() error {
	s, key, err := v.projectShell("Database Deployments")
	if err != nil {
		return err
	}
	c, err := v.projectCardOf(*s.Project, key)
	if err != nil {
		return err
	}
	d := deploymentsView{Card: c, Show: v.query("show"), All: len(c.Clusters)}
	c.Clusters = slices.DeleteFunc(c.Clusters, func(k clusterCard) bool {
		stopped := k.Up == 0
		if stopped {
			d.Stopped++
		}
		return (d.Show == "running" && stopped) || (d.Show == "stopped" && !stopped)
	})
	d.Card = c
	return v.render(deploymentsPage(s, d))
}

// deploymentsView is Database Deployments with its filter.
type deploymentsView struct {
	Card         projectCard
	Show         string
	All, Stopped int
}

// advancedView is Advanced of a project.
type advancedView struct {
	Verdict              verdict
	RoleARN, Key, Region string
	Since, Next          string
	UsedBy               string
	Requested            string
	Checked              bool
	Label                string
}

func (v *visit) advanced() error {
	s, key, err := v.projectShell("Advanced")
	if err != nil {
		return err
	}
	now := v.now()
	a := advancedView{Verdict: *s.Custody, Key: cmp.Or(key.KeyARN, key.KeyID), Region: region(key.Region), Label: s.Project.Name}
	if key.Enabled {
		a.Since, a.Next = moment(a.Verdict.Since, now), until(a.Verdict.Next, now)
		if !a.Verdict.Next.IsZero() {
			a.Next = "in " + a.Next + ", " + stamp(a.Verdict.Next)
		}
		a.RoleARN = key.AccessKeyID
		if key.Role != "" {
			role, err := v.cfg.Access.Get(v.ctx(), v.who, s.Project.ID, key.Role)
			if err != nil {
				return err
			}
			a.RoleARN = role.ARN
		}
		if r := key.Requested; r.Generation != key.Generation || r.KeyID != key.KeyID {
			a.Requested = r.KeyID
		}
		a.Checked = v.query("checked") != ""
	}
	all, err := v.cfg.Cluster.List(v.ctx(), v.who, s.Project.ID)
	if err != nil {
		return err
	}
	used := 0
	for _, c := range all {
		if card(c).YourKey {
			used++
		}
	}
	a.UsedBy = fmt.Sprintf("%d of %s", used, plural(len(all), "cluster", "clusters"))
	return v.render(advancedPage(s, a))
}

// tryAgain has every validator run now, and waits for them as long as a run may take.
func (v *visit) tryAgain() error {
	id := v.project()
	if _, err := v.cfg.CMK.TryAgain(v.ctx(), v.who, id); err != nil {
		return err
	}
	return v.redirect("/projects/" + string(id) + "/advanced?checked=1")
}
