package console

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// pageSize is how many events a page shows.
const pageSize = 50

// eventRow is one event.
type eventRow struct {
	Seq                               uint64
	Time, Message, Type, Actor, Short string
}

func rows(events []audit.Event) []eventRow {
	var out []eventRow
	for _, e := range events {
		h := e.Hash.String()
		out = append(out, eventRow{e.Seq, stamp(e.Time), e.Message, e.Type, e.Actor, h[:4] + "…" + h[len(h)-4:]})
	}
	return out
}

// activityView is the Activity page. Its filters are all in the address.
type activityView struct {
	About, Path         string
	Type, From, Cluster string
	Total               int
	Rows                []eventRow
	Newer, Older        string
	// MayVerify: verifying needs Organization Owner. Verified and Finding are of this visit.
	MayVerify bool
	Verified  bool
	Finding   string
	Head      audit.Head
	At        string
}

func (v *visit) orgActivity() error {
	s, err := v.orgShell("Activity", v.org())
	if err != nil {
		return err
	}
	a := activityView{About: s.Org.Name, Path: "/orgs/" + string(s.Org.ID) + "/activity"}
	return v.activity(s, s.Org.ID, a, func(f store.EventFilter) ([]audit.Event, int, error) {
		return v.cfg.Tenant.OrgEvents(v.ctx(), v.who, s.Org.ID, f)
	})
}

func (v *visit) projectActivity() error {
	s, _, err := v.projectShell("Activity")
	if err != nil {
		return err
	}
	a := activityView{About: s.Project.Name, Path: "/projects/" + string(s.Project.ID) + "/activity"}
	return v.activity(s, s.Project.Org, a, func(f store.EventFilter) ([]audit.Event, int, error) {
		if name := v.query("cluster"); name != "" {
			c, err := v.cfg.Cluster.Get(v.ctx(), v.who, s.Project.ID, name)
			if err != nil {
				return nil, 0, err
			}
			f.Clusters = []keys.ClusterID{c.ID}
		}
		return v.cfg.Tenant.ProjectEvents(v.ctx(), v.who, s.Project.ID, f)
	})
}

func (v *visit) activity(s shell, org keys.OrgID, a activityView, list func(store.EventFilter) ([]audit.Event, int, error)) error {
	page, err := strconv.Atoi(v.query("page"))
	if err != nil || page < 1 || page > 1_000_000 {
		page = 1
	}
	a.Type, a.From, a.Cluster = v.query("type"), v.query("from"), v.query("cluster")
	f := store.EventFilter{Offset: (page - 1) * pageSize, Limit: pageSize}
	if a.Type != "" {
		f.Types = []string{a.Type}
	}
	if a.From != "" {
		if f.Since, err = time.Parse(time.DateOnly, a.From); err != nil {
			return apierr.BadRequest("INVALID_QUERY_PARAMETER", "From is %q; a date such as 2026-01-31 is expected.", a.From).Because(err)
		}
	}
	events, total, err := list(f)
	if err != nil {
		return err
	}
	a.Rows, a.Total = rows(events), total
	if page > 1 {
		a.Newer = a.address(page - 1)
	}
	if page*pageSize < total {
		a.Older = a.address(page + 1)
	}
	a.MayVerify = v.who.HasOrg(tenant.OrgOwner, org)
	if v.query("verify") != "" {
		if err := v.verify(&a); err != nil {
			return err
		}
	}
	return v.render(activityPage(s, a))
}

func (v *visit) verify(a *activityView) error {
	if !a.MayVerify {
		return tenant.Unauthorized("Verifying the audit chain needs the role ORG_OWNER.")
	}
	head, err := v.cfg.Audit.VerifyAudit(v.ctx(), audit.Head{})
	if err != nil && !errors.Is(err, audit.ErrBroken) {
		return err
	}
	a.Verified, a.Head, a.At = true, head, stamp(v.now())
	if err != nil {
		a.Finding = err.Error()
	}
	return nil
}

// address is the page's with its filters.
func (a activityView) address(page int) string {
	q := url.Values{}
	for k, x := range map[string]string{"type": a.Type, "from": a.From, "cluster": a.Cluster} {
		if x != "" {
			q.Set(k, x)
		}
	}
	q.Set("page", fmt.Sprint(page))
	return a.Path + "?" + q.Encode()
}
