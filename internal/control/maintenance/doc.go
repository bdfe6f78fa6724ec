// Package maintenance keeps a project's maintenance window: the hours of the week in
// which work on its clusters may begin that nobody asked for, such as the rotation of
// master keys that have grown old. Work on demand never waits for it.
//
// Window is pure: it tells from the window and a time whether maintenance may begin
// now, and when it may next. The Service changes the window as Atlas's
// maintenanceWindow calls do. A project without a window is always open.
package maintenance
