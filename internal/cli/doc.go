// Package cli is the command line of the one program: it reads flags, builds
// the parts that a process needs, and runs them until a signal comes.
//
// Results go to standard output, everything else to standard error. Errors are
// "error: ..." with an exit code of 1; a wrong command line is 2 (usageError).
// `keywright mongod` has the exit codes of a mongod.
//
// # Commands that call the API
//
// There is one file per noun: key.go, host.go, project.go. A command has apiFlags and
// talks HTTP like any other client: what it can do, everybody can do.
//
//	func thingShowCommand() *cobra.Command {
//		var api apiFlags
//		c := &cobra.Command{
//			Use: "show PROJECT", Short: "Show the things of a project", Args: cobra.ExactArgs(1),
//			RunE: func(c *cobra.Command, args []string) error {
//				cl, err := api.client() // first: it refuses wrong flags
//				if err != nil {
//					return err
//				}
//				p, err := api.project(c.Context(), cl, args[0]) // by id or name
//				if err != nil {
//					return err
//				}
//				got, err := ask[things](c.Context(), cl, "GET", p.path("/things"), nil)
//				if err != nil {
//					return fmt.Errorf("show things: %w", err)
//				}
//				return api.show(c, got.raw, func(t *table) { // -o json prints raw
//					t.row("NAME", "STATE")
//					for _, x := range got.value.Results {
//						t.row(x.Name, x.State)
//					}
//				})
//			},
//		}
//		api.add(c) // --bootstrap, --base-url, --public-key-file, --private-key-file, -o
//		return c
//	}
//
// A refusal of the API is printed with its code, its detail and a hint by Run: commands
// return it wrapped with what they tried. Changes that cannot be taken back ask for the
// name to be typed, through a flag --confirm NAME.
package cli
