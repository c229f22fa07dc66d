from svdlab.cli import main

raise SystemExit(main())
