package console

// route is one page or form. Open ones need no session.
type route struct {
	pattern string
	open    bool
	page    func(*visit) error
}

// routes is the whole console. Addresses are stable: people keep them as bookmarks.
func routes() []route {
	return []route{
		{"GET /static/{name}", true, (*visit).static},
		{"GET /sign-in", true, (*visit).signInPage},
		{"POST /sign-in", true, (*visit).signIn},
		{"POST /sign-out", false, (*visit).signOut},
		{"POST /theme", true, (*visit).theme},
		{"GET /{$}", false, (*visit).home},
		{"GET /orgs/{org}", false, (*visit).allClusters},
		{"GET /orgs/{org}/activity", false, (*visit).orgActivity},
		{"GET /projects/{project}", false, (*visit).overview},
		{"GET /projects/{project}/clusters", false, (*visit).deployments},
		{"GET /projects/{project}/advanced", false, (*visit).advanced},
		{"POST /projects/{project}/advanced/try-again", false, (*visit).tryAgain},
		{"GET /projects/{project}/activity", false, (*visit).projectActivity},
	}
}
