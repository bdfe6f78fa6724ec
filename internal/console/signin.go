package console

import (
	"net/http"
	"net/url"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// signInForm is what the sign-in page shows.
type signInForm struct {
	Host, Username, Next, Error string
}

func (v *visit) static() error {
	if !v.assets.serve(v.w, v.r) {
		return apierr.NotFound("RESOURCE_NOT_FOUND", "There is no such file.")
	}
	return nil
}

func (v *visit) signInPage() error {
	f := signInForm{Host: v.r.Host, Next: localPath(v.query("next"))}
	if v.query("ended") != "" {
		f.Error = "You were signed out after 30 minutes without activity."
	}
	return v.render(signInPage(v.bare("Sign in"), f))
}

func (v *visit) signIn() error {
	if err := v.parse(); err != nil {
		return err
	}
	f := signInForm{Host: v.r.Host, Next: localPath(v.r.PostForm.Get("next")), Username: v.r.PostForm.Get("username")}
	password := secret.FromString(v.r.PostForm.Get("password"))
	defer password.Wipe()
	token, err := v.cfg.Tenant.SignIn(v.ctx(), f.Username, password, remote(v.r))
	if e, ok := apierr.As(err); ok && (e.Code == tenant.WrongPassword || e.Code == tenant.TooManyAttempts) {
		f.Error = e.Detail
		return v.renderStatus(e.Status, signInPage(v.bare("Sign in"), f))
	}
	if err != nil {
		return err
	}
	defer token.Wipe()
	v.setCookie(cookieName(v.r), string(token.Reveal()), tenant.SessionLife)
	return v.redirect(f.Next)
}

func (v *visit) signOut() error {
	if err := v.cfg.Tenant.SignOut(v.ctx(), v.session); err != nil {
		return err
	}
	v.setCookie(cookieName(v.r), "", -time.Second)
	return v.redirect("/sign-in")
}

// theme keeps the chosen theme in a cookie and leads back.
func (v *visit) theme() error {
	if err := v.parse(); err != nil {
		return err
	}
	switch t := v.r.PostForm.Get("theme"); t {
	case "light", "dark":
		v.setCookie("keywright-theme", t, 365*24*time.Hour)
	default:
		v.setCookie("keywright-theme", "", -time.Second)
	}
	return v.redirect(localPath(v.r.PostForm.Get("back")))
}

func (v *visit) parse() error {
	if err := v.r.ParseForm(); err != nil {
		return apierr.New(http.StatusBadRequest, "INVALID_FORM", "The form could not be read; it may be too large.").Because(err)
	}
	return nil
}

// home leads to the person's organization.
func (v *visit) home() error { return v.redirect("/orgs/" + url.PathEscape(string(v.who.Org))) }

func (v *visit) org() keys.OrgID         { return keys.OrgID(v.r.PathValue("org")) }
func (v *visit) project() keys.ProjectID { return keys.ProjectID(v.r.PathValue("project")) }
