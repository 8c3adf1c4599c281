from tfdfd.cli.main import main

raise SystemExit(main())
