package console

import (
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// shell is what surrounds a page.
type shell struct {
	Title, Theme      string
	CSS, Script, Icon string
	Path              string
	Username          string
	Local             bool
	Org               store.Org
	Orgs              []store.Org
	Project           *store.Project
	Projects          []store.Project
	Nav               []navGroup
	Custody           *verdict
}

type navGroup struct {
	Title string
	Links []navLink
}

type navLink struct {
	Icon, Text, To, Note string
	Here                 bool
}

// bare is the shell of pages without a session's menus.
func (v *visit) bare(title string) shell {
	s := shell{
		Title: title + " · Keywright", CSS: v.assets.path("console.css"), Script: v.assets.path("console.js"), Icon: v.assets.path("icon.svg"),
		Path: v.r.URL.RequestURI(), Local: v.cfg.LocalAWS, Username: v.who.Username,
	}
	if c, err := v.r.Cookie("keywright-theme"); err == nil && (c.Value == "light" || c.Value == "dark") {
		s.Theme = c.Value
	}
	return s
}

// orgShell is the shell of an organization's pages: ORG_NOT_FOUND.
func (v *visit) orgShell(title string, id keys.OrgID) (shell, error) {
	s := v.bare(title)
	org, err := v.cfg.Tenant.Org(v.ctx(), v.who, id)
	if err != nil {
		return s, err
	}
	if s.Projects, err = v.cfg.Tenant.Projects(v.ctx(), v.who, id); err != nil {
		return s, err
	}
	if s.Orgs, err = v.cfg.Tenant.Orgs(v.ctx(), v.who); err != nil {
		return s, err
	}
	s.Org, s.Title = org, title+" · "+org.Name+" · Keywright"
	at := "/orgs/" + string(id)
	s.Nav = here(v.r.URL.Path, []navGroup{{Links: []navLink{
		{Icon: "grid", Text: "All clusters", To: at}, {Icon: "list", Text: "Activity", To: at + "/activity"},
	}}})
	return s, nil
}

// projectShell is the shell of a project's pages, with what is recorded of its key:
// GROUP_NOT_FOUND.
func (v *visit) projectShell(title string) (shell, cmk.View, error) {
	id := keys.ProjectID(v.r.PathValue("project"))
	project, err := v.cfg.Tenant.Project(v.ctx(), v.who, id)
	if err != nil {
		return shell{}, cmk.View{}, err
	}
	s, err := v.orgShell(title, project.Org)
	if e, ok := apierr.As(err); ok && e.Code == "ORG_NOT_FOUND" {
		s, err = v.bare(title), nil // a role in the project alone
	}
	if err != nil {
		return s, cmk.View{}, err
	}
	key, err := v.cfg.CMK.Peek(v.ctx(), v.who, id)
	if err != nil {
		return s, key, err
	}
	custody := present(key, v.now())
	s.Project, s.Custody, s.Title = &project, &custody, title+" · "+project.Name+" · Keywright"
	if custody.Bad() {
		s.Title = custody.Word + " · " + s.Title
	}
	at := "/projects/" + string(id)
	s.Nav = here(v.r.URL.Path, []navGroup{
		{Links: []navLink{{Icon: "grid", Text: "Overview", To: at}}},
		{Title: "Deployment", Links: []navLink{{Icon: "database", Text: "Databases", To: at + "/clusters", Note: count(project.Clusters)}}},
		{Title: "Security", Links: []navLink{{Icon: "lock", Text: "Advanced", To: at + "/advanced"}}},
		{Title: "Operate", Links: []navLink{{Icon: "list", Text: "Activity", To: at + "/activity"}}},
	})
	return s, key, nil
}

func here(path string, groups []navGroup) []navGroup {
	for _, g := range groups {
		for i := range g.Links {
			g.Links[i].Here = g.Links[i].To == path
		}
	}
	return groups
}

// pressed is the value of aria-pressed.
func pressed(on bool) string {
	if on {
		return "true"
	}
	return "false"
}
