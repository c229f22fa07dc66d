from svdlab.interface.command_line import main

raise SystemExit(main())
